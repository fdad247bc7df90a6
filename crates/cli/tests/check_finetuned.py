"""Compares what `bert4rs predict` says with what transformers makes of the same folder.

    bert4rs predict --model RUN --data FILE.csv --output predictions.jsonl
    python check_finetuned.py RUN predictions.jsonl

The folder, of ours or of transformers, must load with AutoModelForSequenceClassification and a
pipeline, AutoModelForTokenClassification or AutoModelForCausalLM, with nothing missing, and give the
same labels and probabilities, tags, or likelihoods of completions.
"""

import json
import sys

import torch
from transformers import (
    AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification,
    AutoModelForTokenClassification, AutoTokenizer, pipeline,
)

folder, predictions = sys.argv[1:3]
rows = [json.loads(line) for line in open(predictions, encoding="utf-8")][:200]
tokenizer = AutoTokenizer.from_pretrained(folder)
architecture = AutoConfig.from_pretrained(folder).architectures[0]
is_tags, is_causal = "TokenClassification" in architecture, "LMHead" in architecture
auto = AutoModelForTokenClassification if is_tags else AutoModelForSequenceClassification
auto = AutoModelForCausalLM if is_causal else auto
if architecture.startswith("GPT2"):
    # Some other model's tokenizer may give types, which GPT-2 would take for tokens.
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
model, info = auto.from_pretrained(folder, output_loading_info=True)
model = model.eval().float()
assert not info["missing_keys"] and not info["unexpected_keys"], info
worst = 0.0
for row in rows:
    with torch.no_grad():
        if is_causal:
            prompt = tokenizer(row["prompt"]).input_ids if "prompt" in row else []
            ids = prompt + tokenizer(row.get("completion", row.get("text"))).input_ids
            ids = ids + ([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])
            ids, start = torch.tensor(ids), max(1, len(prompt))
            losses = model(ids[None]).logits[0, start - 1:-1].log_softmax(-1)
            likelihood = losses.gather(-1, ids[start:, None]).sum().item()
            assert row["tokens"] == len(ids) - start, (row["tokens"], len(ids) - start)
            # A token's share, as sums of many tokens differ more.
            worst = max(worst, abs(likelihood - row["log_likelihood"]) / row["tokens"])
            continue
        if is_tags:
            inputs = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt",
                               truncation=True)
            words = inputs.word_ids()
            logits = model(**inputs).logits[0]
            first = [at for at, word in enumerate(words)
                     if word is not None and (at == 0 or words[at - 1] != word)]
            said = [model.config.id2label[int(logits[at].argmax())] for at in first]
            assert said == row["tags"], (said, row)
            continue
        inputs = tokenizer(row["text"], row.get("text_pair"), return_tensors="pt", truncation=True)
        logits = model(**inputs).logits[0]
    problem = model.config.problem_type
    if problem == "regression":
        worst = max(worst, abs(float(logits[0]) - row["value"]))
        continue
    shares = logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(-1)
    for number, name in model.config.id2label.items():
        worst = max(worst, abs(float(shares[number]) - row["scores"][name]))
assert worst < 1e-5, worst
if not is_tags and not is_causal and "text_pair" not in rows[0] and model.config.problem_type == "single_label_classification":
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)
    for row in rows[:20]:
        assert pipe(row["text"], truncation=True)[0]["label"] == row["label"], row
print(f"{len(rows)} rows agree; probabilities differ by at most {worst:.1e}")
