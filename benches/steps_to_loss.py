"""Steps to AdamW's final loss: AdamW, Muon and NorMuon, tuned alike, over three seeds.

    python benches/steps_to_loss.py --program target/debug/bert4rs --corpus TEXT --size seed \
        --steps 500 --out RUNS

For each rule the same number of learning rates is tried with seed 1; the best goes on with all
seeds. The parameters that Muon leaves to AdamW keep AdamW's own best learning rate. A run's
final loss is the mean over its last tenth of steps; no text is seen twice, so that it is no
memory of the text. Two answers come out:

* shorter runs: Muon with 0.70 of the steps, its schedule ending there, against AdamW's final loss;
* crossing: the step at which the full run's loss, smoothed over 25 steps, first falls below it,
  while its learning rate is still high.

Finished runs are kept and not repeated: an interrupted comparison goes on. Writes `report.md` and
a plot, `SIZE.svg`, to RUNS.
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
    "adamw": [5e-4, 1e-3, 2e-3, 4e-3],
    "muon": [0.005, 0.01, 0.02, 0.04],
    "normuon": [0.005, 0.01, 0.02, 0.04],
}
SHORT = 0.70
WINDOW = 25


def settings(rule, rate, adamw_rate):
    """The rule's part of the configuration."""
    if rule == "adamw":
        return [f"optimizer.adamw.lr={rate}"]
    neurons = ',neurons={beta2=0.95,axis="rows"}' if rule == "normuon" else ""
    muon = (
        f'{{lr={rate},weight_decay=0.0,momentum={{value=0.95}},nesterov=true,scale="original",'
        f'coefficients={{name="polar_express",steps=5}}{neurons}}}'
    )
    return [f"optimizer.adamw.lr={adamw_rate}", f"optimizer.muon={muon}"]


class Runs:
    def __init__(self, args):
        self.args = args

    def losses(self, rule, rate, seed, steps, adamw_rate=None):
        """The loss of each step of a run, made if it is not there yet."""
        folder = self.args.out / f"{self.args.size}-{rule}-{rate:g}-{steps}-{seed}"
        log = folder / "metrics.jsonl"
        if not (folder / "summary.json").exists():
            values = SIZES[self.args.size] + settings(rule, rate, adamw_rate)
            values += [f"train.max_steps={steps}", "train.eval_sequences=0",
                       f"compute.threads={self.args.threads}"]
            command = [self.args.program, "train", "--preset", "recommended", "--overwrite",
                       "--corpus", self.args.corpus, "--seed", str(seed), "--out", folder]
            command += [word for value in values for word in ("--set", value)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
        print(f"{folder.name}: {final(losses):.4f}", flush=True)
        return losses


def final(losses):
    return statistics.fmean(losses[-max(1, len(losses) // 10):])


def smooth(losses):
    return [statistics.fmean(losses[max(0, i - WINDOW + 1): i + 1]) for i in range(len(losses))]


def crossing(losses, target):
    smoothed = enumerate(smooth(losses), 1)
    return next((step for step, loss in smoothed if step >= WINDOW and loss <= target), None)


def spread(values):
    return f"{statistics.fmean(values):.4f} ({min(values):.4f}–{max(values):.4f})"


def compare(runs, steps, seeds):
    tried, best = {}, {}
    for rule, rates in RATES.items():
        adamw_rate = best.get("adamw")
        tried[rule] = {rate: runs.losses(rule, rate, 1, steps, adamw_rate) for rate in rates}
        best[rule] = min(rates, key=lambda rate: final(tried[rule][rate]))
    full = {
        rule: [tried[rule][rate]] + [
            runs.losses(rule, rate, seed, steps, best["adamw"]) for seed in range(2, seeds + 1)
        ]
        for rule, rate in best.items()
    }
    short = {
        rule: [
            runs.losses(rule, best[rule], seed, round(SHORT * steps), best["adamw"])
            for seed in range(1, seeds + 1)
        ]
        for rule in RATES
    }
    return tried, best, full, short


def report(args, tried, best, full, short):
    target = statistics.fmean(final(losses) for losses in full["adamw"])
    lines = [
        f"{args.size}, {args.steps} steps, {args.seeds} seeds; "
        f"AdamW's final loss: {target:.4f} nats", "",
        f"| rule | LR: final loss, seed 1 | final loss, mean (min–max) | after {SHORT:.2f} × the "
        "steps | crossing ÷ steps |", "| --- | --- | --- | --- | --- |",
    ]
    for rule in RATES:
        rates = "; ".join(f"{rate:g}: {final(run):.3f}" for rate, run in tried[rule].items())
        crossings = [crossing(run, target) for run in full[rule]]
        shares = [f"{step / args.steps:.2f}" if step else "never" for step in crossings]
        lines.append(
            f"| {rule} ({best[rule]:g}) | {rates} | {spread([final(run) for run in full[rule]])} "
            f"| {spread([final(run) for run in short[rule]])} | {', '.join(shares)} |"
        )
    return "\n".join(lines) + "\n"


def plot(full, short, steps):
    """Smoothed losses of all runs as an SVG: full lines the full runs, dashed the shorter ones."""
    width, height, left, top = 720, 420, 56, 16
    right, bottom = width - 16, height - 44
    curves = [(rule, run, dash) for group, dash in ((full, ""), (short, "5 3"))
              for rule, found in group.items() for run in found]
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
                 f'(dashed: schedule of {SHORT:.2f} × the steps); loss in nats, smoothed over '
                 f"{WINDOW} steps</text></svg>")
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=Path("target/debug/bert4rs"))
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="seed")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        tried, best, full, short = compare(Runs(args), args.steps, args.seeds)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd))} ended with {error.returncode}")
    text = report(args, tried, best, full, short)
    (args.out / f"{args.size}.md").write_text(text)
    (args.out / f"{args.size}.svg").write_text(plot(full, short, args.steps))
    print(text)


if __name__ == "__main__":
    main()
