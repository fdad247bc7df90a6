"""Makes `lora.safetensors` beside it: what peft makes of the model in `bert.safetensors`.

    pip install torch==2.11.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python make_lora.py [--check]

Adapters of rank 3 and alpha 6 stand beside queries and values; they are drawn, under peft's own
names. `logits` and `loss` are the adapted model's for the inputs in `bert.safetensors`, `grad.NAME`
the gradient of each adapter.
"""

import argparse
import json
import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

FOLDER = pathlib.Path(__file__).parent
FILE = FOLDER / "lora.safetensors"


def made():
    kept = load_file(FOLDER / "bert.safetensors")
    config = json.loads((FOLDER / "bert.json").read_text())
    base = BertForMaskedLM(BertConfig(**config))
    prefix = "weight."
    weights = {name[len(prefix):]: x for name, x in kept.items() if name.startswith(prefix)}
    base.load_state_dict(weights, strict=False)
    base.tie_weights()
    lora = LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"], lora_dropout=0.0)
    model = get_peft_model(base, lora).eval()
    generator = torch.Generator().manual_seed(1)
    trained = {name: x for name, x in model.named_parameters() if x.requires_grad}
    for weight in trained.values():
        weight.data = 0.5 * torch.randn(weight.shape, generator=generator)
    inputs = ["input_ids", "attention_mask", "token_type_ids", "labels"]
    out = model(**{name: kept[name] for name in inputs})
    out.loss.backward()
    tensors = {"logits": out.logits.detach(), "loss": out.loss.detach()}
    for name, weight in get_peft_model_state_dict(model).items():
        gradient = trained[name.replace(".weight", ".default.weight")].grad
        tensors |= {name: weight, f"grad.{name}": gradient}
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    tensors = made()
    if not parser.parse_args().check:
        save_file(tensors, FILE)
        return
    kept = load_file(FILE)
    assert kept.keys() == tensors.keys()
    worst = max((kept[key] - value).abs().max().item() for key, value in tensors.items())
    print(f"largest deviation {worst:.1e}")
    sys.exit(worst > 1e-6)


if __name__ == "__main__":
    main()
