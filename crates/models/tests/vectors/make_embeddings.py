"""Makes `embeddings.safetensors` beside it: what sentence-transformers makes of hidden states.

    pip install torch==2.11.0 sentence-transformers==6.2.0 safetensors==0.8.0
    python make_embeddings.py [--check]

`hidden` are random hidden states, `keep` is which tokens are real; `MODES` of pooling, with `+`
between several, give `MODES`, and, with a prompt of two tokens left out, `MODES.without_prompt`.
`dense.weight` and `dense.bias` with tanh, then `Normalize`, make `dense` of the means.
"""

import argparse
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

FILE = pathlib.Path(__file__).parent / "embeddings.safetensors"
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken",
         "cls+mean+max"]


def made():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 7, 5, generator=generator)
    keep = torch.ones(3, 7, dtype=torch.long)
    keep[0, 4:] = 0
    keep[2, 6:] = 0
    tensors = {"hidden": hidden, "keep": keep}
    for modes in MODES:
        for left_out in (False, True):
            pooling = Pooling(5, tuple(modes.split("+")), include_prompt=not left_out)
            features = {"token_embeddings": hidden, "attention_mask": keep, "prompt_length": 2}
            name = modes + (".without_prompt" if left_out else "")
            tensors[name] = pooling(features)["sentence_embedding"]
    torch.manual_seed(2)
    dense = Dense(5, 4)
    features = dense({"sentence_embedding": tensors["mean"]})
    tensors["dense"] = Normalize()(features)["sentence_embedding"]
    tensors |= {"dense.weight": dense.linear.weight, "dense.bias": dense.linear.bias}
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


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
