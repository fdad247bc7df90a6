"""Compares what `bert4rs predict` says of questions and of sources with what transformers makes of the
same folder.

    bert4rs predict --model RUN --data FILE --n-best 1 --output predictions.jsonl
    python check_written.py RUN FILE predictions.jsonl

Of questions (FILE as SQuAD's) the best span of all windows must be the same text; of sources (FILE.csv
with the column `source`) the text that `generate` writes must be the same, by the folder's own
generation_config.json. With --stride N and --max-length N as they were given to `predict`.
"""

import argparse
import csv
import json

import torch
from transformers import (
    AutoConfig, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoTokenizer,
)

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("data")
parser.add_argument("predictions")
parser.add_argument("--stride", type=int, default=128)
parser.add_argument("--max-length", type=int, default=None)
parser.add_argument("--rows", type=int, default=100)
args = parser.parse_args()

rows = [json.loads(line) for line in open(args.predictions, encoding="utf-8")][:args.rows]
tokenizer = AutoTokenizer.from_pretrained(args.folder)
config = AutoConfig.from_pretrained(args.folder)
is_answers = "QuestionAnswering" in config.architectures[0]
auto = AutoModelForQuestionAnswering if is_answers else AutoModelForSeq2SeqLM
model, info = auto.from_pretrained(args.folder, output_loading_info=True)
model = model.eval().float()
assert not info["missing_keys"] and not info["unexpected_keys"], info


def best_answer(question, context):
    """run_qa.py's search, in windows one by one."""
    found = tokenizer(question, context, truncation="only_second", stride=args.stride,
                      max_length=args.max_length or tokenizer.model_max_length,
                      return_overflowing_tokens=True, return_offsets_mapping=True)
    best, none = (-1e30, ""), 1e30
    for at, ids in enumerate(found["input_ids"]):
        more = {"token_type_ids": torch.tensor([found["token_type_ids"][at]])
                if "token_type_ids" in found else None}
        with torch.no_grad():
            logits = model(torch.tensor([ids]), **{k: v for k, v in more.items() if v is not None})
        first, last = logits.start_logits[0].numpy(), logits.end_logits[0].numpy()
        places = [place if part == 1 else None
                  for place, part in zip(found["offset_mapping"][at], found.sequence_ids(at))]
        none = min(none, float(first[0] + last[0]))
        for start in first.argsort()[-1:-21:-1]:
            for end in last.argsort()[-1:-21:-1]:
                if not places[start] or not places[end] or not start <= end < start + 30:
                    continue
                score = float(first[start] + last[end])
                if score > best[0]:
                    best = (score, context[places[start][0]:places[end][1]])
    return best[1], none - best[0]


if is_answers:
    data = json.load(open(args.data, encoding="utf-8"))["data"]
    questions = [(entry["question"], paragraph["context"]) for article in data
                 for paragraph in article["paragraphs"] for entry in paragraph["qas"]]
    worst = 0.0
    for row, (question, context) in zip(rows, questions):
        text, no_answer = best_answer(question, context)
        assert row["answers"][0]["text"] == text, (row, text)
        if "no_answer_score" in row:
            worst = max(worst, abs(row["no_answer_score"] - no_answer))
    assert worst < 1e-4, worst
    print(f"{len(rows)} answers agree; scores of none differ by at most {worst:.1e}")
else:
    sources = [row["source"] for row in csv.DictReader(open(args.data, encoding="utf-8"))]
    differing = 0
    for row, source in zip(rows, sources):
        source = (getattr(config, "prefix", None) or "") + source
        inputs = tokenizer(source, return_tensors="pt", truncation=True)
        with torch.no_grad():
            ids = model.generate(**inputs)
        text = tokenizer.decode(ids[0], skip_special_tokens=True)
        differing += text.strip() != row["generated_text"].strip()
    assert differing == 0, f"{differing} of {len(rows)} texts differ"
    print(f"{len(rows)} texts agree")
