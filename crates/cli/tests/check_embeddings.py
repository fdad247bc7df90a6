"""Compares the vectors of `bert4rs embed` with those of sentence-transformers for the same folder.

    bert4rs embed --model RUN --file TEXTS --output embeddings.json
    python check_embeddings.py RUN embeddings.json

The folder must load as a SentenceTransformer, with its own pooling, and give the same vectors.
"""

import json
import sys

import torch
from sentence_transformers import SentenceTransformer

folder, embeddings = sys.argv[1:3]
rows = json.load(open(embeddings, encoding="utf-8"))
model = SentenceTransformer(folder, device="cpu")
expected = model.encode([row["text"] for row in rows], convert_to_tensor=True)
found = torch.tensor([row["embedding"] for row in rows])
worst = (expected - found).abs().max().item()
size = expected.abs().max().item()
print(f"{len(rows)} vectors agree within {worst:.1e}; the largest value is {size:.2f}")
assert worst < 1e-5 * max(1.0, size), worst
