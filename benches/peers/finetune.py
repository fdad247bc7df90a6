"""Fine-tunes with transformers' own Trainer what `bert4rs finetune classify` does, and prints its
scores and examples a second as one JSON object.

    python finetune.py --model DIR --train train.csv --validation dev.csv --test test.csv \
        --epochs 3 --lr 5e-5 --batch-size 32 --seed 1 --threads 2

The best setting of transformers on a CPU is meant: batches padded to their longest text, those of
like length together with --group-by-length. The weights that score best on the validation file are
kept, as bert4rs does.
"""

import argparse
import csv
import json
import sys
import tempfile
import time

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer,
    TrainingArguments, set_seed,
)

csv.field_size_limit(sys.maxsize)
parser = argparse.ArgumentParser()
for name in ["model", "train", "validation", "test"]:
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--lr", type=float, default=5e-5)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--max-steps", type=int, default=-1)
parser.add_argument("--group-by-length", action="store_true")
args = parser.parse_args()

torch.set_num_threads(args.threads)
set_seed(args.seed)
tokenizer = AutoTokenizer.from_pretrained(args.model)


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


class Examples(Dataset):
    def __init__(self, rows, names):
        self.rows = tokenizer([text for text, _ in rows], truncation=True)["input_ids"]
        self.labels = [names.index(label) for _, label in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.labels[index]}


train_rows = read(args.train)
names = sorted({label for _, label in train_rows})
train, validation, test = (Examples(read(path), names)
                           for path in [args.train, args.validation, args.test])
model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=len(names))


def accuracy(found):
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


with tempfile.TemporaryDirectory() as folder:
    each = "epoch" if args.max_steps < 0 else "no"
    sampling = {"train_sampling_strategy": "group_by_length"} if args.group_by_length else {}
    settings = TrainingArguments(
        output_dir=folder, num_train_epochs=args.epochs, max_steps=args.max_steps,
        learning_rate=args.lr, per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=2 * args.batch_size, warmup_steps=0.1, weight_decay=0.01,
        lr_scheduler_type="linear", seed=args.seed, use_cpu=True, report_to="none",
        eval_strategy=each, save_strategy=each, load_best_model_at_end=each == "epoch",
        metric_for_best_model="accuracy", disable_tqdm=True, logging_strategy="no", **sampling,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=train, eval_dataset=validation,
                      data_collator=DataCollatorWithPadding(tokenizer),
                      compute_metrics=accuracy)
    spent = 0.0
    step = trainer.training_step

    def timed(*inputs, **named):
        global spent
        began = time.perf_counter()
        loss = step(*inputs, **named)
        spent += time.perf_counter() - began
        return loss

    trainer.training_step = timed
    began = time.perf_counter()
    trainer.train()
    total = time.perf_counter() - began
    steps = trainer.state.global_step
    seen = min(steps * args.batch_size, args.epochs * len(train))
    print(json.dumps({
        "validation": trainer.evaluate(validation)["eval_accuracy"],
        "test": trainer.evaluate(test)["eval_accuracy"],
        "steps": steps, "examples_per_s": seen / total,
        "examples_per_s_of_forward_and_backward": seen / spent, "total_time_s": total,
    }))
