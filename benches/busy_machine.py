"""Tokens a second on a machine that is not alone, by how long libgomp's threads spin.

    python3 benches/busy_machine.py --program target/debug/bert4rs --corpus TEXT --rounds 5

Trains `recommended` at the seed's size: alone; beside a process that keeps one core busy; beside
another training run, whose threads spin as libgomp's do by default; and on one core. Rounds go
over all of these and over all counts, so that what changes with time meets all alike. Prints the
median and the spread of each, and its share of the tokens a second alone with libgomp's default.

The machine must be idle but for this: involuntary switches and other work are in summary.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

SIZE = ["model.vocab_size=30000", "model.hidden_size=256", "model.num_layers=4",
        "model.num_heads=4", "data.batch_size=4", "data.seq_len=512"]
# What libgomp takes where nothing is set.
DEFAULT = 300_000
PLACES = ["alone", "beside one busy core", "beside another training run", "on one core"]


def command(args, steps, out):
    values = [*SIZE, f"train.max_steps={steps}", f"train.log_every={steps}",
              "train.eval_sequences=0"]
    words = [args.program, "train", "--preset", "recommended", "--device", "cpu", "--overwrite",
             "--corpus", args.corpus, "--out", out]
    return [*words, *(word for value in values for word in ("--set", value))]


def environment(spin_count):
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return {**inherited, "GOMP_SPINCOUNT": str(spin_count)}


@contextmanager
def neighbour(args, place, folder):
    """What else runs meanwhile."""
    if place == "beside one busy core":
        words = ["sh", "-c", "while :; do :; done"]
    elif place == "beside another training run":
        words = command(args, 100_000, folder / "neighbour")
    else:
        yield
        return
    process = subprocess.Popen(words, env=environment(DEFAULT), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def tokens_per_s(args, place, spin_count, folder):
    cores = sorted(os.sched_getaffinity(0))
    allowed = cores[:1] if place == "on one core" else cores
    with neighbour(args, place, folder):
        subprocess.run(
            command(args, args.steps, folder / "run"), env=environment(spin_count), check=True,
            stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
    return json.loads((folder / "run/summary.json").read_text())["tokens_per_s"]


def measure(args, folder):
    found = {(place, count): [] for place in PLACES for count in args.spin_counts}
    # The corpus is made into tokens once, by a run that is not timed.
    tokens_per_s(args, "alone", DEFAULT, folder)
    for number in range(1, args.rounds + 1):
        for (place, count), rates in found.items():
            rates.append(tokens_per_s(args, place, count, folder))
            print(f"round {number}: {place}, {count} spins: {rates[-1]:.0f}", file=sys.stderr)
    return found


def report(found, counts):
    alone = statistics.median(found["alone", counts[0]])
    lines = [f"Share of the {alone:,.0f} tokens/s alone with {counts[0]:,} spins: median "
             "(lowest–highest).", "",
             "| | " + " | ".join(f"{count:,} spins" for count in counts) + " |",
             "| --- |" + " ---: |" * len(counts)]
    for place in PLACES:
        cells = []
        for count in counts:
            shares = [rate / alone for rate in found[place, count]]
            cells.append(f"{statistics.median(shares):.2f} ({min(shares):.2f}–{max(shares):.2f})")
        lines.append(f"| {place} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=Path("target/debug/bert4rs"))
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spin-counts", type=int, nargs="+",
                        default=[DEFAULT, 30_000, 10_000, 3_000, 0])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = measure(args, Path(folder))
        except subprocess.CalledProcessError as error:
            sys.exit(f"{' '.join(map(str, error.cmd))} ended with {error.returncode}")
    print(report(found, args.spin_counts))


if __name__ == "__main__":
    main()
