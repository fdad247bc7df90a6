"""Compares what `bert4rs predict` says with what peft makes of a run's adapters.

    bert4rs predict --model RUN --data FILE.csv --output predictions.jsonl
    python check_adapter.py RUN predictions.jsonl

RUN is of `finetune classify` with `lora.rank`, for one class of several. `RUN/adapter`, over the
model that it began with, must give the probabilities of RUN, into which adapters are merged.
"""

import json
import sys

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

folder, predictions = sys.argv[1:3]
rows = [json.loads(line) for line in open(predictions, encoding="utf-8")][:100]
config = AutoConfig.from_pretrained(folder)
base = PeftConfig.from_pretrained(f"{folder}/adapter").base_model_name_or_path
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=config.num_labels)
model = PeftModel.from_pretrained(model, f"{folder}/adapter").eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
worst = 0.0
for row in rows:
    inputs = tokenizer(row["text"], row.get("text_pair"), return_tensors="pt", truncation=True)
    with torch.no_grad():
        shares = model(**inputs).logits[0].softmax(-1)
    for number, name in config.id2label.items():
        worst = max(worst, abs(float(shares[number]) - row["scores"][name]))
print(f"{len(rows)} rows agree; probabilities differ by at most {worst:.1e}")
assert worst < 1e-5, worst
