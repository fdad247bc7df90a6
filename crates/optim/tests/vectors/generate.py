"""Writes the *.safetensors beside it: 20 steps of reference optimizers on fixed gradients.

    pip install torch==2.11.0 numpy==2.4.6 safetensors==0.8.0
    git clone https://github.com/zichongli5/NorMuon   # d45c9a4280d7
    python generate.py NorMuon/normuon.py

The references are torch.optim.AdamW, torch.optim.Muon and the NorMuon authors' own file, run in
FP32 or FP64: their cast to BF16 before the Newton-Schulz iteration is turned into a copy, and the
iteration itself is theirs. Cautious decay has no published optimizer of its own; its two lines are
written out below.

Each file holds, FP32: `initial.<name>`, `grads.<name>` [20, ...], and `<case>.<name>` [20, ...],
the weights after every step. Values are computed in FP64 where the case's name ends in it.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS = 20
SHAPES = {"wide": (6, 10), "tall": (10, 6), "square": (6, 6)}
VECTORS = {"bias": (10,)}
HERE = Path(__file__).parent


def start(shapes):
    """Weights and gradients that FP32 holds exactly. Gradients have a part in common."""
    torch.manual_seed(4)
    initial = {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}
    common = {name: torch.randn(shape) for name, shape in shapes.items()}
    grads = {
        name: torch.stack([common[name] + torch.randn(shape) for _ in range(STEPS)])
        for name, shape in shapes.items()
    }
    return initial, grads


def run(make, initial, grads, dtype, before_step=None):
    """The weights after every step of the optimizer that `make` returns for a list of them."""
    params = {name: torch.nn.Parameter(value.to(dtype, copy=True)) for name, value in initial.items()}
    optimizer = make(list(params.values()))
    history = {name: [] for name in params}
    for step in range(STEPS):
        for name, param in params.items():
            param.grad = grads[name][step].to(dtype, copy=True)
        if before_step:
            before_step(optimizer, step)
        optimizer.step()
        for name, param in params.items():
            history[name].append(param.detach().float().clone())
    return {name: torch.stack(values) for name, values in history.items()}


class CautiousMuon(torch.optim.Optimizer):
    """Muon whose decay acts where update and weight agree in sign, as microsoft/dion has it."""

    def __init__(self, params, update, lr, weight_decay):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.update = update

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group["params"]:
                direction = self.update(self.state[param], param.grad)
                agrees = (direction * param >= 0).to(param.dtype)
                param -= group["lr"] * group["weight_decay"] * param * agrees
                param -= group["lr"] * direction


def muon_direction(state, grad):
    """Keller Jordan's momentum 0.95 with Nesterov, torch's iteration, the scale "original"."""
    momentum = state.setdefault("momentum", torch.zeros_like(grad))
    momentum.lerp_(grad, 0.05)
    coefficients = (3.4445, -4.7750, 2.0315)
    iterate = torch.optim._muon._zeropower_via_newtonschulz
    factor = iterate(grad.lerp(momentum, 0.95), coefficients, 5, 1e-7)
    return factor * max(1, grad.size(0) / grad.size(1)) ** 0.5


def adamw_cases():
    initial, grads = start(SHAPES | VECTORS)
    tensors = prefixed("initial", initial) | prefixed("grads", grads)
    for dtype, suffix in ((torch.float32, "fp32"), (torch.float64, "fp64")):
        settings = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}
        history = run(lambda p: torch.optim.AdamW(p, **settings), initial, grads, dtype)
        tensors |= prefixed(f"adamw_{suffix}", history)
    save_file(tensors, HERE / "adamw.safetensors")


def muon_cases(normuon):
    initial, grads = start(SHAPES)
    tensors = prefixed("initial", initial) | prefixed("grads", grads)

    def case(name, make, dtype=torch.float64, before_step=None):
        nonlocal tensors
        tensors |= prefixed(name, run(make, initial, grads, dtype, before_step))

    def muon(**settings):
        return lambda p: torch.optim.Muon(p, lr=2e-2, weight_decay=0.1, **settings)

    def warm_up(optimizer, step):
        optimizer.param_groups[0]["momentum"] = 0.85 + 0.1 * min(step / 10, 1)

    case("muon_fp32", muon(), torch.float32)
    case("muon_fp64", muon())
    case("muon_plain_momentum_fp64", muon(nesterov=False))
    case("muon_match_rms_fp64", muon(adjust_lr_fn="match_rms_adamw"))
    case("muon_warm_up_fp64", muon(), before_step=warm_up)
    case("muon_cautious_fp64", lambda p: CautiousMuon(p, muon_direction, 2e-2, 0.5))
    case("normuon_fp32", lambda p: normuon(p, weight_decay=0.1), torch.float32)
    case("normuon_fp64", lambda p: normuon(p, weight_decay=0.1))
    save_file(tensors, HERE / "muon.safetensors")


def prefixed(prefix, tensors):
    return {f"{prefix}.{name}": value.float().contiguous() for name, value in tensors.items()}


def main():
    torch.Tensor.bfloat16 = torch.Tensor.clone
    spec = importlib.util.spec_from_file_location("normuon", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    adamw_cases()
    muon_cases(module.SingleDeviceNorMuon)


if __name__ == "__main__":
    main()
