"""The tasks of finetune.py: data, model, collator and scores of each, as transformers' own examples
have them."""

import csv
import json
import re
import string
import sys
from collections import Counter

import numpy as np
from torch.utils.data import Dataset
from transformers import (
    AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification,
    AutoModelForTokenClassification, DataCollatorForSeq2Seq, DataCollatorForTokenClassification,
    DataCollatorWithPadding, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments,
)

csv.field_size_limit(sys.maxsize)


def add_arguments(parser):
    parser.add_argument("--stride", type=int, default=128, help="answer")
    parser.add_argument("--max-target-length", type=int, default=128, help="seq2seq")
    parser.add_argument("--prefix", default="", help="seq2seq")


class Rows(Dataset):
    """Examples as the collator takes them."""

    def __init__(self, rows, **more):
        self.rows = rows
        self.__dict__.update(more)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Classify:
    Trainer, Arguments, settings = Trainer, TrainingArguments, {}
    main_score, names = "accuracy", ["accuracy"]

    def __init__(self, args, tokenizer):
        rows = {part: table(getattr(args, part)) for part in ["train", "validation", "test"]}
        labels = sorted({row["label"] for row in rows["train"]})

        def examples(part):
            texts = [row["text"] for row in rows[part]]
            ids = tokenizer(texts, truncation=True, max_length=args.max_length)["input_ids"]
            return Rows([{"input_ids": one, "labels": labels.index(row["label"])}
                         for one, row in zip(ids, rows[part])])

        self.train, self.validation, self.test = map(examples, rows)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            args.model, num_labels=len(labels), id2label=dict(enumerate(labels)),
            label2id={name: at for at, name in enumerate(labels)})
        self.collator = DataCollatorWithPadding(tokenizer)

    @staticmethod
    def scores(found):
        return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


class Tag:
    Trainer, Arguments, settings = Trainer, TrainingArguments, {}
    main_score, names = "f1", ["f1", "accuracy"]

    def __init__(self, args, tokenizer):
        def sentences(path):
            text = open(path, encoding="utf-8").read()
            return [[line.split() for line in block.split("\n") if line.strip()]
                    for block in text.split("\n\n") if block.strip()]

        parts = {part: sentences(getattr(args, part)) for part in ["train", "validation", "test"]}
        self.tags = sorted({cells[-1] for sentence in parts["train"] for cells in sentence})
        self.train, self.validation, self.test = (
            Rows([self.example(sentence, tokenizer) for sentence in part])
            for part in parts.values())
        self.model = AutoModelForTokenClassification.from_pretrained(
            args.model, num_labels=len(self.tags), id2label=dict(enumerate(self.tags)),
            label2id={name: at for at, name in enumerate(self.tags)})
        self.collator = DataCollatorForTokenClassification(tokenizer)

    def example(self, sentence, tokenizer):
        """A word's first token stands for it."""
        found = tokenizer([cells[0] for cells in sentence], is_split_into_words=True,
                          truncation=True)
        words = found.word_ids()
        first = [word is not None and (at == 0 or words[at - 1] != word)
                 for at, word in enumerate(words)]
        labels = [self.tags.index(sentence[word][-1]) if is_first else -100
                  for word, is_first in zip(words, first)]
        return {"input_ids": found["input_ids"], "labels": labels}

    def scores(self, found):
        from seqeval.metrics import f1_score
        said, right = found.predictions.argmax(-1), found.label_ids
        pairs = [[(self.tags[s], self.tags[r]) for s, r in zip(*row) if r != -100]
                 for row in zip(said, right)]
        flat = [s == r for row in pairs for s, r in row]
        return {"f1": float(f1_score([[r for _, r in row] for row in pairs],
                                     [[s for s, _ in row] for row in pairs])),
                "accuracy": sum(flat) / len(flat)}


def words(text):
    """As SQuAD's script compares answers."""
    bare = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def word_f1(said, right):
    said, right = words(said), words(right)
    shared = sum((Counter(said) & Counter(right)).values())
    if not said or not right:
        return float(said == right)
    return 2 * shared / (len(said) + len(right))


class Answer:
    Trainer, Arguments = Trainer, TrainingArguments
    settings = {"label_names": ["start_positions", "end_positions"]}
    main_score, names = "f1", ["f1", "exact_match"]

    def __init__(self, args, tokenizer):
        self.train, self.validation, self.test = (
            self.windows(getattr(args, part), args, tokenizer)
            for part in ["train", "validation", "test"])
        self.model = AutoModelForQuestionAnswering.from_pretrained(args.model)
        self.collator = DataCollatorWithPadding(tokenizer)

    @staticmethod
    def windows(path, args, tokenizer):
        data = json.load(open(path, encoding="utf-8"))["data"]
        questions = [(entry, paragraph["context"]) for article in data
                     for paragraph in article["paragraphs"] for entry in paragraph["qas"]]
        found = tokenizer(
            [entry["question"] for entry, _ in questions], [text for _, text in questions],
            truncation="only_second", max_length=args.max_length or tokenizer.model_max_length,
            stride=args.stride, return_overflowing_tokens=True, return_offsets_mapping=True)
        rows, places, owners = [], [], found["overflow_to_sample_mapping"]
        for at, owner in enumerate(owners):
            offsets = [place if part == 1 else None for place, part in
                       zip(found["offset_mapping"][at], found.sequence_ids(at))]
            answers = questions[owner][0]["answers"]
            start, end = span(offsets, answers[0]) if answers else (0, 0)
            row = {key: found[key][at] for key in ["input_ids", "attention_mask"]}
            if "token_type_ids" in found:
                row["token_type_ids"] = found["token_type_ids"][at]
            rows.append(row | {"start_positions": start, "end_positions": end})
            places.append(offsets)
        return Rows(rows, places=places, owners=owners, questions=questions)

    def scores(self, found):
        """run_qa.py's search among the twenty likeliest first and last tokens."""
        data = next(data for data in (self.validation, self.test)
                    if np.array_equal([row["start_positions"] for row in data.rows],
                                      found.label_ids[0]) and len(data) == len(found.label_ids[0]))
        best = {owner: (-1e30, "") for owner in data.owners}
        none = {owner: 1e30 for owner in data.owners}
        for offsets, owner, first, last in zip(data.places, data.owners, *found.predictions):
            none[owner] = min(none[owner], float(first[0] + last[0]))
            context = data.questions[owner][1]
            for start in np.argsort(first)[-1:-21:-1]:
                for end in np.argsort(last)[-1:-21:-1]:
                    if max(start, end) >= len(offsets) or not offsets[start] or not offsets[end]:
                        continue
                    if start <= end < start + 30 and first[start] + last[end] > best[owner][0]:
                        text = context[offsets[start][0]:offsets[end][1]]
                        best[owner] = (float(first[start] + last[end]), text)
        may_be_none = any(not entry["answers"] for entry, _ in self.train.questions)
        exact, f1 = [], []
        for owner, (score, text) in best.items():
            text = "" if may_be_none and none[owner] > score else text
            right = [one["text"] for one in data.questions[owner][0]["answers"]] or [""]
            exact.append(max(float(words(text) == words(one)) for one in right))
            f1.append(max(word_f1(text, one) for one in right))
        return {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}


def span(offsets, answer):
    """The tokens of an answer, or the first token where the window does not hold it."""
    start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
    text = [at for at, place in enumerate(offsets) if place]
    if not (offsets[text[0]][0] <= start and offsets[text[-1]][1] >= end):
        return 0, 0
    return (max(at for at in text if offsets[at][0] <= start),
            min(at for at in text if offsets[at][1] >= end))


class Seq2Seq:
    Trainer, Arguments = Seq2SeqTrainer, Seq2SeqTrainingArguments
    main_score, names = "rouge_l", ["rouge_l", "bleu"]

    def __init__(self, args, tokenizer):
        self.tokenizer = tokenizer
        self.settings = {"predict_with_generate": True,
                         "generation_max_length": args.max_target_length + 1}

        def examples(path):
            rows = table(path)
            sources = tokenizer([args.prefix + row["source"] for row in rows], truncation=True,
                                max_length=args.max_length)["input_ids"]
            targets = tokenizer(text_target=[row["target"] for row in rows], truncation=True,
                                max_length=args.max_target_length)["input_ids"]
            return Rows([{"input_ids": source, "labels": target}
                         for source, target in zip(sources, targets)])

        self.train, self.validation, self.test = map(
            examples, [args.train, args.validation, args.test])
        self.model = AutoModelForSeq2SeqLM.from_pretrained(args.model)
        self.collator = DataCollatorForSeq2Seq(tokenizer, model=self.model)

    def scores(self, found):
        import sacrebleu
        from rouge_score.rouge_scorer import RougeScorer
        pad = self.tokenizer.pad_token_id
        texts = [[text.strip() for text in self.tokenizer.batch_decode(
            np.where(ids < 0, pad, ids), skip_special_tokens=True)]
            for ids in (found.predictions, found.label_ids)]
        scorer = RougeScorer(["rougeL"])
        rouge = [scorer.score(right, said)["rougeL"].fmeasure for said, right in zip(*texts)]
        return {"rouge_l": float(np.mean(rouge)),
                "bleu": sacrebleu.corpus_bleu(texts[0], [texts[1]]).score}


TASKS = {"classify": Classify, "tag": Tag, "answer": Answer, "seq2seq": Seq2Seq}
