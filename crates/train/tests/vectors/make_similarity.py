"""Makes `similarity.safetensors` beside it: losses of sentence-transformers and their gradients.

    pip install torch==2.11.0 sentence-transformers==6.2.0 safetensors==0.8.0
    python make_similarity.py [--check]

`vectors` are random, of 5 examples with 3 texts each; `scores` are random too. Of each loss there
are its value, as `NAME`, and its gradient for the vectors, as `NAME.gradient`: `cosine` and `pairs`
read the first two texts of an example alone, `negatives` and `triplet` all three.
"""

import argparse
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import losses

FILE = pathlib.Path(__file__).parent / "similarity.safetensors"


def made():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(5, 3, 6, generator=generator)
    scores = torch.rand(5, generator=generator)
    tensors = {"vectors": vectors, "scores": scores}
    ranking = losses.MultipleNegativesRankingLoss(None)
    for name, loss, texts in [
        ("cosine", losses.CosineSimilarityLoss(None), 2),
        ("pairs", ranking, 2),
        ("negatives", ranking, 3),
        ("triplet", losses.TripletLoss(None, triplet_margin=0.5), 3),
    ]:
        leaf = vectors.clone().requires_grad_()
        embeddings = [leaf[:, text] for text in range(texts)]
        value = loss.compute_loss_from_embeddings(embeddings, scores)
        value.backward()
        tensors |= {name: value.detach(), f"{name}.gradient": leaf.grad}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


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
