"""Compares what `bert4rs predict` says with sentence-transformers' CrossEncoder.

    bert4rs predict --model RUN --data FILE.csv --output predictions.jsonl
    python check_ranks.py RUN predictions.jsonl

RUN is of `finetune rank`, or of CrossEncoder itself.
"""

import json
import sys

from sentence_transformers import CrossEncoder

folder, predictions = sys.argv[1:3]
rows = [json.loads(line) for line in open(predictions, encoding="utf-8")][:200]
model = CrossEncoder(folder, device="cpu")
scores = model.predict([(row["query"], row["text"]) for row in rows])
worst = max(abs(float(score) - row["score"]) for score, row in zip(scores, rows))
print(f"{len(rows)} rows agree; scores differ by at most {worst:.1e}")
assert worst < 1e-5, worst
