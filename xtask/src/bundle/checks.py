"""What first.sh wants to know of runs that are over, and two measurements with PyTorch.

    python3 checks.py equal RUN RUN...       losses agree, step by step
    python3 checks.py finite RUN             every loss and norm is a number
    python3 checks.py flat RUN               the GPU's memory does not grow from step to step
    python3 checks.py quiet LOG              no warning was printed
    python3 checks.py replayed RUN           few shapes, each with a graph, and the graphs were used
    python3 checks.py rates RUN RUN...       tokens a second
    python3 checks.py head-products          a head's product at 50,257 and at 50,304 columns
    python3 checks.py light                  products of random numbers, and of ones
"""

import json
import math
import pathlib
import sys

# The same step in another order of sums, in BF16, over 50 steps.
TOLERANCE = 0.02
# Steps in which what is made at first use is made, and a step is captured, for each shape.
WARM_UP = 12
MOST_SHAPES = 2


def steps(run):
    lines = (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def summary(run):
    return json.loads((pathlib.Path(run) / "summary.json").read_text())


def finite(run):
    for record in steps(run):
        for name in ("loss", "grad_norm"):
            value = record[name]
            assert value is not None and math.isfinite(value), f"{run}: {name} of step {record['step']} is {value}"
    assert summary(run)["skipped_steps"] == 0, f"{run}: steps were skipped"


def equal(first, *others):
    finite(first)
    expected = [record["loss"] for record in steps(first)]
    for other in others:
        finite(other)
        found = [record["loss"] for record in steps(other)]
        assert len(found) == len(expected), f"{other}: {len(found)} steps, not {len(expected)}"
        apart, step = max((abs(a - b), step) for step, (a, b) in enumerate(zip(expected, found), 1))
        print(f"{other}: losses within {apart:.2e} of {first} (step {step})")
        assert apart < TOLERANCE, f"{other}: step {step} is {apart:.3f} from {first}"


def flat(run):
    held = [record.get("device_bytes") for record in steps(run)][WARM_UP:]
    assert held and all(held), f"{run}: no bytes of a GPU"
    print(f"{run}: {min(held):,} to {max(held):,} bytes in tensors after step {WARM_UP}")
    assert max(held) - min(held) < 0.01 * max(held), f"{run}: memory is not flat"


def quiet(log):
    lines = pathlib.Path(log).read_text().splitlines()
    loud = [line for line in lines if "warning" in line.lower() or "no CUDA graphs" in line]
    assert not loud, f"{log}: {loud}"


def replayed(run):
    found = summary(run)
    usage, count = found.get("captured"), found["steps"]
    assert usage, f"{run}: the host looked at each step"
    print(f"{run}: {usage} of {count} steps")
    assert usage["shapes"] <= MOST_SHAPES, f"{run}: {usage['shapes']} shapes"
    assert usage["graphs"] >= 1 and usage["replays"] >= count // 2, f"{run}: graphs are hardly used"


def rates(*runs):
    for run in runs:
        print(f"{run}: {summary(run)['tokens_per_s']:,.0f} tokens/s")


def milliseconds(body):
    import torch

    for _ in range(3):
        body()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        body()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 20


def head_products():
    import torch

    hidden = torch.randn(8192, 768, device="cuda", dtype=torch.bfloat16)
    for columns in (50257, 50304):
        weight = torch.randn(columns, 768, device="cuda", dtype=torch.bfloat16)
        time = milliseconds(lambda: hidden @ weight.T)
        rate = 2 * 8192 * 768 * columns / time / 1e9
        print(f"8192 x 768 x {columns}: {time:.3f} ms, {rate:.0f} TFLOP/s")


def light():
    import torch

    for name, make in (("random", torch.randn), ("ones", torch.ones)):
        left, right = (make(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        time = milliseconds(lambda: left @ right)
        print(f"8192 x 8192 x 8192, {name}: {2 * 8192**3 / time / 1e9:.0f} TFLOP/s")


if __name__ == "__main__":
    names = {
        "equal": equal,
        "finite": finite,
        "flat": flat,
        "quiet": quiet,
        "replayed": replayed,
        "rates": rates,
        "head-products": head_products,
        "light": light,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(__doc__)
    try:
        names[sys.argv[1]](*sys.argv[2:])
    except AssertionError as error:
        sys.exit(f"error: {error}")
