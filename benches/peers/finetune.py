"""Fine-tunes with transformers' own Trainer what `bert4rs finetune TASK` does, and prints its scores
and examples a second as one JSON object.

    python finetune.py classify --model DIR --train train.csv --validation dev.csv --test test.csv \
        --epochs 3 --lr 5e-5 --batch-size 32 --seed 1 --threads 2

The best setting of transformers on a CPU is meant: batches padded to their longest text, those of
like length together with --group-by-length. Tasks are in finetune_tasks.py. The weights that score
best on the validation file are kept, as bert4rs does. `pip install accelerate` is needed beside
transformers, and seqeval, rouge_score and sacrebleu for the tasks whose scores they count.
"""

import argparse
import json
import tempfile
import time

import torch
from transformers import AutoTokenizer, TrainerCallback, set_seed

import finetune_tasks

parser = argparse.ArgumentParser()
parser.add_argument("task", choices=sorted(finetune_tasks.TASKS))
for name in ["model", "train", "validation", "test"]:
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--lr", type=float, default=5e-5)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--max-steps", type=int, default=-1)
parser.add_argument("--max-length", type=int, default=None)
parser.add_argument("--group-by-length", action="store_true")
parser.add_argument("--bf16", action="store_true", help="autocast to BF16")
parser.add_argument("--keep", help="folder that the model is saved in")
finetune_tasks.add_arguments(parser)
args = parser.parse_args()

torch.set_num_threads(args.threads)
set_seed(args.seed)
tokenizer = AutoTokenizer.from_pretrained(args.model)
task = finetune_tasks.TASKS[args.task](args, tokenizer)


class Clock(TrainerCallback):
    """Time in steps alone: measurements left out, as bert4rs leaves them out."""

    def __init__(self):
        self.spent, self.began = 0.0, 0.0

    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.spent += time.perf_counter() - self.began


with tempfile.TemporaryDirectory() as folder:
    each = "epoch" if args.max_steps < 0 else "no"
    sampling = {"train_sampling_strategy": "group_by_length"} if args.group_by_length else {}
    settings = task.Arguments(
        output_dir=folder, num_train_epochs=args.epochs, max_steps=args.max_steps,
        learning_rate=args.lr, per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=2 * args.batch_size, warmup_steps=0.1, weight_decay=0.01,
        lr_scheduler_type="linear", seed=args.seed, use_cpu=True, bf16=args.bf16, report_to="none",
        eval_strategy=each, save_strategy=each, load_best_model_at_end=each == "epoch",
        metric_for_best_model=task.main_score, greater_is_better=True, disable_tqdm=True,
        logging_strategy="no", **sampling, **task.settings,
    )
    clock = Clock()
    trainer = task.Trainer(
        model=task.model, args=settings, train_dataset=task.train, eval_dataset=task.validation,
        data_collator=task.collator, compute_metrics=task.scores, callbacks=[clock],
        processing_class=tokenizer,
    )
    began = time.perf_counter()
    trainer.train()
    total = time.perf_counter() - began
    steps = trainer.state.global_step
    seen = min(steps * args.batch_size, args.epochs * len(task.train))

    def measured(data):
        """The scores, under the names that the task gives them."""
        found = trainer.evaluate(data)
        found = {name.removeprefix("eval_"): value for name, value in found.items()}
        return {name: found[name] for name in ["loss", *task.names] if name in found}

    validation, test = measured(task.validation), measured(task.test)
    if args.keep:
        trainer.save_model(args.keep)
    print(json.dumps({
        "task": args.task, "validation": validation, "test": test, "steps": steps,
        "examples": len(task.train), "examples_per_s": seen / clock.spent, "total_time_s": total,
    }))
