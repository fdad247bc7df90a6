"""Trains a PyTorch peer on the batches that bert4rs trains on, and leaves the same files.

`cargo xtask bench-matrix --peers` makes the environment (requirements.txt) and calls this:

    python train.py --config config.json --batches batches.safetensors --steps 12 --out RUN
        --model hugging-face|tuned [--bf16] [--compile] [--device cpu]

config.json is the configuration of a bert4rs run: sizes, learning rate, schedule, clipping.
batches.safetensors holds `N.input_ids` and so on for each batch N, as `bert4rs batches` writes
them. Each step is one batch, one update by fused AdamW after clipping the gradients' norm.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch

import hugging_face
import tuned


def process_age():
    """Seconds since this process began, as Linux counts them."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    start = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
    return uptime - float(start) / 100


BEGAN = time.perf_counter() - process_age()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--batches", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=["hugging-face", "tuned"], required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def read_batches(path, steps, device):
    """The tensors of each batch by name. They are in memory before the clock starts: a peer
    never waits for data."""
    from safetensors.torch import load_file

    batches = [{} for _ in range(steps)]
    for name, tensor in load_file(path).items():
        index, field = name.split(".", 1)
        if int(index) < steps:
            batches[int(index)][field] = tensor if field == "real_tokens" else tensor.to(device)
    missing = [index for index, batch in enumerate(batches) if not batch]
    if missing:
        raise SystemExit(f"error: {path}: has no batch {missing[0]}, {steps} are needed")
    return batches


def learning_rate(config, step):
    """Linear warm-up, then linear decay to 0: the schedule of the configuration."""
    steps, schedule = config["train"]["max_steps"], config["schedule"]
    warmup = schedule["warmup"]
    warm = warmup["steps"] if "steps" in warmup else warmup["fraction"] * steps
    if schedule["decay"]["shape"] != "linear":
        raise SystemExit(f"error: schedule.decay {schedule['decay']} is not known here")
    if step < warm:
        return min(1.0, (step + 1) / warm)
    return 1.0 - (1.0 - schedule["decay"]["min"]) * (step - warm) / (steps - warm)


def decayed(model):
    """Parameter groups as ours: decay on matrices and tables of words, none on the rest."""
    groups = ([], [])
    for parameter in model.parameters():
        groups[parameter.dim() < 2].append(parameter)
    return groups


class Masters:
    """FP32 copies beside BF16 weights: the optimizer works on these."""

    def __init__(self, model):
        self.weights = [p for p in model.parameters() if p.dtype == torch.bfloat16]
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in self.weights]
        self.of = dict(zip(self.weights, self.masters))

    def take_gradients(self):
        for weight, master in zip(self.weights, self.masters):
            master.grad = weight.grad.float()
            weight.grad = None

    @torch.no_grad()
    def write_back(self):
        if self.weights:
            torch._foreach_copy_(self.weights, self.masters)


class Update:
    """Clipping, and one step of fused AdamW over FP32 values."""

    def __init__(self, model, config):
        adamw = config["optimizer"]["adamw"]
        self.masters = Masters(model)
        groups = [[self.masters.of.get(p, p) for p in group] for group in decayed(model)]
        self.parameters = groups[0] + groups[1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[0], "weight_decay": adamw["weight_decay"]},
                {"params": groups[1], "weight_decay": 0.0},
            ],
            lr=adamw["lr"],
            betas=(adamw["beta1"], adamw["beta2"]),
            eps=adamw["eps"],
            fused=True,
        )
        self.peak = adamw["lr"]
        clip = config["optimizer"].get("clip")
        self.max_norm = clip["max_norm"] if clip else None

    def step(self, factor):
        self.masters.take_gradients()
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.masters.write_back()


def peak_memory(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


class LoadMeter:
    """Other work of the machine since it was made, as `bert4rs_tensor_core::load` counts it."""

    def __init__(self):
        self.began = time.perf_counter()
        self.first = self.counters()

    @staticmethod
    def counters():
        """Seconds of all cores together: busy, taken by the host, and this process's own."""
        first_line = Path("/proc/stat").read_text().split("\n")[0]
        ticks = [int(tick) / 100 for tick in first_line.split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, stolen = ticks
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return user + nice + system + irq + softirq, stolen, usage.ru_utime + usage.ru_stime

    def read(self):
        elapsed = max(time.perf_counter() - self.began, 0.01)
        busy, stolen, own = (now - then for now, then in zip(self.counters(), self.first))
        return {"other_cores": max(busy - own, 0) / elapsed, "stolen_cores": stolen / elapsed}


def main():
    args = arguments()
    config = json.loads(args.config.read_text())
    config["train"]["max_steps"] = args.steps
    device = torch.device(args.device)
    if config["compute"]["threads"]:
        torch.set_num_threads(config["compute"]["threads"])
    torch.manual_seed(config["seed"])
    batches = read_batches(args.batches, args.steps, device)
    family = {"hugging-face": hugging_face, "tuned": tuned}[args.model]
    # Autocast is Hugging Face's way to BF16; the tuned model's weights are BF16.
    model, loss_of = family.build(config, device, args.bf16)
    update = Update(model, config)
    if args.compile:
        loss_of = torch.compile(loss_of)

    args.out.mkdir(parents=True)
    records, losses, load = [], [], LoadMeter()
    for step, batch in enumerate(batches):
        started = time.perf_counter()
        loss = loss_of(batch)
        loss.backward()
        update.step(learning_rate(config, step))
        if device.type == "cuda":
            torch.cuda.synchronize()
        ended = time.perf_counter()
        losses.append(loss.detach())
        times = {"step_time_s": ended - started, "time_s": ended - BEGAN}
        records.append({"step": step + 1, "tokens": batch["real_tokens"].item(), **times})
    for record, loss in zip(records, losses):
        record["loss"] = loss.item()
    write(args, records, device, load.read())


def write(args, records, device, machine_load):
    lines = (json.dumps(record) for record in records)
    (args.out / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    last = records[-max(1, len(records) // 10):]
    import transformers

    summary = {
        "steps": len(records),
        "tokens": sum(record["tokens"] for record in records),
        "time_to_first_step_s": records[0]["time_s"],
        "final_loss": sum(record["loss"] for record in last) / len(last),
        "peak_memory_bytes": peak_memory(device),
        "data_wait": 0.0,
        "device": str(device),
        "precision": "bf16" if args.bf16 else "fp32",
        "attention": "sdpa",
        "threads": torch.get_num_threads(),
        "machine_load": machine_load,
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2))



if __name__ == "__main__":
    main()
