"""Makes the *.safetensors beside it: tiny models of transformers with inputs and results.

    pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python make_vectors.py [--check]

`--check` writes nothing and compares with the files that are there: bytes may differ between
CPUs, values must agree to 1e-6.

Each file holds `weight.NAME` and `grad.NAME` for every parameter, the inputs, `logits`,
`last_hidden_state` and `loss`; its `config` metadata is transformers' config.json, kept in
NAME.json for readers without metadata. Batch 3, length 37, padding on both sides, FP32.
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
)

HERE = pathlib.Path(__file__).parent
BATCH, TIME, VOCAB = 3, 37, 41


def randomise(model, seed):
    """Every value away from its start, so that no parameter can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_gain = p.dim() == 1 and name.endswith("weight")
            p.copy_(1 + 0.1 * noise if is_gain else 0.2 * noise)
    return model.eval().float()


def padded_mask():
    mask = torch.ones(BATCH, TIME, dtype=torch.long)
    mask[0, :5] = 0
    mask[1, -9:] = 0
    mask[2, :3] = 0
    mask[2, -4:] = 0
    return mask


def tokens(seed, time=TIME):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB, (BATCH, time), generator=generator)


def record(model, inputs, seen):
    """Runs forward and backward; `seen` gives (loss, logits, hidden) from the output."""
    model.zero_grad()
    output = model(**inputs, output_hidden_states=True)
    loss, logits, hidden = seen(output)
    loss.backward()
    tensors = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
    tensors |= {"loss": loss, "logits": logits, "last_hidden_state": hidden}
    for name, p in model.named_parameters():
        tensors["weight." + name] = p
        tensors["grad." + name] = p.grad
    return {name: t.detach().clone().contiguous() for name, t in tensors.items()}


def bert():
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, max_position_embeddings=40, attn_implementation="eager",
    )
    model = randomise(BertForMaskedLM(config), seed=1)
    mask, ids = padded_mask(), tokens(2)
    ids[mask == 0] = config.pad_token_id
    chosen = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) < 0.15) & (mask == 1)
    labels = torch.where(chosen, tokens(4), torch.full_like(ids, -100))
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(TIME) >= 20).long().expand(BATCH, TIME).contiguous(),
        "labels": labels,
    }
    return config, record(model, inputs, lambda o: (o.loss, o.logits, o.hidden_states[-1]))


CASES = {"bert": bert}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    worst = 0.0
    for name, case in CASES.items():
        torch.manual_seed(0)
        config, tensors = case()
        text = json.dumps(config.to_dict(), indent=2, sort_keys=True, default=str) + "\n"
        if not check:
            save_file(tensors, HERE / f"{name}.safetensors")
            (HERE / f"{name}.json").write_text(text)
            continue
        kept = load_file(HERE / f"{name}.safetensors")
        assert kept.keys() == tensors.keys(), name
        for key, value in tensors.items():
            worst = max(worst, (kept[key].double() - value.double()).abs().max().item())
    if check:
        print(f"largest deviation {worst:.1e}")
        sys.exit(worst > 1e-6)


if __name__ == "__main__":
    main()
