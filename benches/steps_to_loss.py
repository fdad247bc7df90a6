"""Steps to AdamW's final loss: AdamW, Muon and NorMuon, tuned alike, over three seeds.

    python benches/steps_to_loss.py --program target/debug/bert4rs --corpus TEXT --size seed \
        --steps 500 --out RUNS

For each rule the same number of learning rates is tried with seed 1; the best goes on with all
seeds. The parameters that Muon leaves to AdamW keep AdamW's own best learning rate. A loss is
that on held-out text after the last step: training losses of different steps are of different
texts, some easier than others. The other rules then run with shares of AdamW's steps, their
schedules ending there; the smallest share whose mean loss is not above AdamW's is the answer.

Finished runs are kept and not repeated: an interrupted comparison goes on. Writes `SIZE.md` and a
plot, `SIZE.svg`, to RUNS.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SIZES = {
    "seed": ["model.vocab_size=30000", "model.hidden_size=256", "model.num_layers=4",
             "model.num_heads=4", "data.batch_size=4", "data.seq_len=512"],
    "bert-small": ["model.vocab_size=30000", "model.hidden_size=512", "model.num_layers=4",
                   "model.num_heads=8", "data.batch_size=16", "data.seq_len=128"],
}
RATES = {
    "adamw": [2.5e-4, 5e-4, 1e-3, 2e-3],
    "muon": [0.005, 0.01, 0.02, 0.04],
    "normuon": [0.005, 0.01, 0.02, 0.04],
}
WINDOW = 25
# Of held-out text; 262,144 tokens of which 15% count.
EVAL_TOKENS = 1 << 18


def settings(rule, rate, adamw_rate):
    """The rule's part of the configuration."""
    if rule == "adamw":
        return [f"optimizer.adamw.lr={rate}"]
    normuon = ',normuon={beta2=0.95,axis="rows"}' if rule == "normuon" else ""
    muon = (
        f'{{lr={rate},weight_decay=0.0,momentum={{value=0.95}},nesterov=true,scale="original",'
        f'coefficients={{name="polar_express",steps=5}}{normuon}}}'
    )
    return [f"optimizer.adamw.lr={adamw_rate}", f"optimizer.muon={muon}"]


class Runs:
    def __init__(self, args):
        self.args = args

    def run(self, rule, rate, seed, steps, adamw_rate=None):
        """The held-out loss and the losses of all steps of a run, made if it is not there yet."""
        folder = self.args.out / f"{self.args.size}-{rule}-{rate:g}-{steps}-{seed}"
        if not (folder / "summary.json").exists():
            size = SIZES[self.args.size]
            length = int(size[-1].split("=")[1])
            values = size + settings(rule, rate, adamw_rate)
            values += [f"train.max_steps={steps}", f"compute.threads={self.args.threads}",
                       f"train.eval_sequences={EVAL_TOKENS // length}"]
            command = [self.args.program, "train", "--preset", "recommended", "--overwrite",
                       "--corpus", self.args.corpus, "--seed", str(seed), "--out", folder]
            command += [word for value in values for word in ("--set", value)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        final = json.loads((folder / "summary.json").read_text())["held_out_loss"]
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        print(f"{folder.name}: {final:.4f}", flush=True)
        return final, [json.loads(line)["loss"] for line in lines]


def smooth(losses):
    return [statistics.fmean(losses[max(0, i - WINDOW + 1): i + 1]) for i in range(len(losses))]


def spread(values):
    return f"{statistics.fmean(values):.4f} ({min(values):.4f}–{max(values):.4f})"


def compare(runs, steps, seeds, shares):
    """Losses by learning rate, the best rate, and by rule and share of the steps all seeds'."""
    tried, best, found = {}, {}, {}
    for rule, rates in RATES.items():
        adamw_rate = best.get("adamw")
        tried[rule] = {rate: runs.run(rule, rate, 1, steps, adamw_rate)[0] for rate in rates}
        best[rule] = min(rates, key=tried[rule].get)
    for rule in RATES:
        for share in [1.0] if rule == "adamw" else [1.0, *shares]:
            found[rule, share] = [
                runs.run(rule, best[rule], seed, round(share * steps), best["adamw"])
                for seed in range(1, seeds + 1)
            ]
    return tried, best, found


def report(args, tried, best, found):
    mean = lambda runs: statistics.fmean(final for final, _ in runs)
    target = mean(found["adamw", 1.0])
    lines = [
        f"{args.size}, {args.steps} steps, {args.seeds} seeds; AdamW's held-out loss: "
        f"{target:.4f} nats", "",
        "| rule (LR) | held-out loss by LR, seed 1 | share of the steps: mean (min–max) | "
        "smallest share that reaches AdamW |", "| --- | --- | --- | --- |",
    ]
    for rule in RATES:
        rates = "; ".join(f"{rate:g}: {final:.3f}" for rate, final in tried[rule].items())
        shares = {share: runs for (of, share), runs in found.items() if of == rule}
        losses = "; ".join(f"{share:.2f}: {spread([final for final, _ in shares[share]])}"
                           for share in sorted(shares))
        reached = [share for share in shares if mean(shares[share]) <= target]
        answer = f"{min(reached):.2f}" if reached else "none"
        lines.append(f"| {rule} ({best[rule]:g}) | {rates} | {losses} | {answer} |")
    return "\n".join(lines) + "\n"


def plot(found, steps, shortest):
    """Smoothed training losses as an SVG: full lines the full runs, dashed the shortest."""
    width, height, left, top = 720, 420, 56, 16
    right, bottom = width - 16, height - 44
    dashes = {1.0: "", shortest: "5 3"}
    curves = [(rule, losses, dashes[share]) for (rule, share), runs in found.items()
              if share in dashes for _, losses in runs]
    skip = steps // 20
    seen = [loss for _, run, _ in curves for loss in smooth(run)[skip:]]
    low, high = min(seen), max(seen)
    x = lambda step: left + (right - left) * step / steps
    y = lambda loss: top + (bottom - top) * (high - loss) / (high - low)
    colours = {"adamw": "#b3541e", "muon": "#1f6fb2", "normuon": "#2c8a4b"}
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
             'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" '
             'fill="#fff"/>']
    for tick in range(6):
        loss = low + (high - low) * tick / 5
        step = steps * tick // 5
        parts.append(f'<path d="M{left} {y(loss):.1f}H{right}" stroke="#ddd"/>'
                     f'<text x="{left - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.2f}'
                     f'</text><text x="{x(step):.1f}" y="{bottom + 16}" text-anchor="middle">'
                     f"{step}</text>")
    for rule, run, dash in curves:
        points = " ".join(f"{x(i + 1):.1f},{y(loss):.1f}"
                          for i, loss in enumerate(smooth(run)) if i >= skip)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[rule]}" '
                     f'stroke-width="1.3" stroke-dasharray="{dash}"/>')
    for index, (rule, colour) in enumerate(colours.items()):
        parts.append(f'<text x="{right - 8}" y="{top + 18 + 16 * index}" text-anchor="end" '
                     f'fill="{colour}">{rule}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{height - 8}" text-anchor="middle">step '
                 f'(dashed: schedule of {shortest:.2f} × the steps); loss in nats, smoothed over '
                 f"{WINDOW} steps</text></svg>")
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=Path("target/debug/bert4rs"))
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="seed")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        tried, best, found = compare(Runs(args), args.steps, args.seeds, args.shares)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd))} ended with {error.returncode}")
    text = report(args, tried, best, found)
    (args.out / f"{args.size}.md").write_text(text)
    (args.out / f"{args.size}.svg").write_text(plot(found, args.steps, min(args.shares)))
    print(text)


if __name__ == "__main__":
    main()
