"""Optimizer steps over BERT-base: PyTorch's and ours, in one run, with their ratios.

    pip install torch==2.11.0 numpy==2.4.6
    python benches/peers/optimizers.py [--rounds 3] [--device cuda] [--program FILE]

A round times PyTorch, runs `cargo run -p bert4rs-benches --bin optimizers` or the program that is
named, and times PyTorch again; of both it takes the faster. Reported are the medians of the rounds,
and the least and the greatest ratio. The FP32 row of Muon replaces the cast to BF16 in
torch.optim.Muon by a copy.
"""

import argparse
import statistics
import subprocess
import time
from pathlib import Path

import torch

WIDTH, LAYERS, ROUNDS = 768, 12, 20
DEVICE = torch.device("cpu")


def hidden():
    shapes = [(WIDTH, WIDTH)] * 4 + [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
    return [torch.randn(shape) * 0.02 for _ in range(LAYERS) for shape in shapes]


def everything():
    vectors = [WIDTH] * 9 + [4 * WIDTH]
    tables = [(30522, WIDTH), (512, WIDTH), (2, WIDTH)]
    return (
        hidden()
        + [torch.randn(size) * 0.02 for _ in range(LAYERS) for size in vectors]
        + [torch.randn(shape) * 0.02 for shape in tables]
    )


def fastest(call, rounds=ROUNDS):
    """Seconds of a call; on a GPU, of many between two waits, as in ours."""
    on_gpu = DEVICE.type == "cuda"
    calls = 20 if on_gpu else 1
    call()
    times = []
    for _ in range(rounds):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if on_gpu:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def parameters(values):
    params = [torch.nn.Parameter(value.to(DEVICE)) for value in values]
    for param in params:
        param.grad = torch.randn_like(param) * 1e-3
    return params


def adamw_fp32():
    return fastest(torch.optim.AdamW(parameters(everything()), fused=True).step)


def adamw_bf16():
    """Fused AdamW on FP32 masters, with the casts that BF16 weights and gradients need."""
    params = parameters(everything())
    optimizer = torch.optim.AdamW(params, fused=True)
    weights = [param.detach().bfloat16() for param in params]
    grads = [param.grad.bfloat16() for param in params]

    def step():
        torch._foreach_copy_([param.grad for param in params], grads)
        optimizer.step()
        torch._foreach_copy_(weights, [param.detach() for param in params])

    return fastest(step)


def muon():
    params = parameters(hidden())
    return fastest(torch.optim.Muon(params, lr=0.02, weight_decay=0.0).step, 2)


def muon_fp32():
    cast = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = torch.Tensor.clone
    try:
        return muon()
    finally:
        torch.Tensor.bfloat16 = cast


PEERS = {
    "adamw fp32 fused": adamw_fp32,
    "adamw bf16 fused": adamw_bf16,
    "muon bf16": muon,
    "muon fp32": muon_fp32,
}


def ours(program):
    root = Path(__file__).parents[2]
    cargo = ["cargo", "run", "--quiet", "-p", "bert4rs-benches", "--bin", "optimizers", "--"]
    command = ([str(program.resolve())] if program else cargo) + [str(DEVICE)]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    print(output)
    rows = (line.split("\t") for line in output.splitlines())
    return {row[0]: float(row[1]) for row in rows}


def round_of_all(program):
    """Seconds of PyTorch's steps and of all of ours, by name."""
    first = {name: peer() for name, peer in PEERS.items()}
    mine = ours(program)
    return {name: min(first[name], peer()) for name, peer in PEERS.items()}, mine


def spread(values, form):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}}–{high:{form}})"


def main():
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=DEVICE, help="such as cuda")
    parser.add_argument("--program", type=Path, help="the bench optimizers, built already")
    args = parser.parse_args()
    DEVICE = args.device
    torch.set_num_threads(2)
    rounds = [round_of_all(args.program) for _ in range(args.rounds)]
    print("| step over BERT-base | PyTorch 2.11, s | bert4rs, s | ratio |\n| --- | --- | --- | --- |")
    for name in PEERS:
        pairs = [(theirs[name], mine[name]) for theirs, mine in rounds]
        theirs, mine = (statistics.median(column) for column in zip(*pairs))
        ratios = spread([mine / theirs for theirs, mine in pairs], ".2f")
        print(f"| {name} | {theirs:.4f} | {mine:.4f} | {ratios} |")
    for kind in ["fp32", "bf16"]:
        costs = [mine[f"normuon {kind}"] / mine[f"muon {kind}"] - 1 for _, mine in rounds]
        print(f"\nNorMuon over Muon, {kind}: {spread(costs, '.1%')} of a step")


if __name__ == "__main__":
    main()
