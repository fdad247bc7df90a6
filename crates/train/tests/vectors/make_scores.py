"""Writes scores.json: predictions with the scores that reference implementations give them.

    pip install scikit-learn==1.9.1 scipy==1.17.1 seqeval==1.2.2 sacrebleu==2.6.0 rouge_score==0.1.2 \
        transformers==4.57.6
    python make_scores.py
"""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer
from scipy import stats
from seqeval.metrics import classification_report, f1_score as entity_f1
from sklearn import metrics
from transformers.data.metrics import squad_metrics

warnings.filterwarnings("ignore")
rng = random.Random(3)
numpy_rng = np.random.default_rng(3)


def classes():
    cases = []
    for count, size in [(2, 40), (4, 60), (5, 30), (3, 3)]:
        right = [rng.randrange(count) for _ in range(size)]
        guess = [label if rng.random() < 0.6 else rng.randrange(count) for label in right]
        if count == 5:  # a class that nobody has, and one that nobody predicts
            right = [min(label, 3) for label in right]
            guess = [3 if label == 4 else (0 if label == 1 else label) for label in guess]
        if count == 3:
            right, guess = [1, 1, 1], [1, 1, 1]
        cases.append({
            "classes": count, "right": right, "predicted": guess,
            "accuracy": metrics.accuracy_score(right, guess),
            "f1_macro": metrics.f1_score(right, guess, average="macro"),
            "f1_micro": metrics.f1_score(right, guess, average="micro"),
            "matthews": metrics.matthews_corrcoef(right, guess),
        })
    return cases


def labels():
    right = numpy_rng.random((30, 4)) < [0.5, 0.2, 0.05, 0.0]
    guess = right ^ (numpy_rng.random((30, 4)) < 0.2)
    return {
        "classes": 4, "right": right.tolist(), "predicted": guess.tolist(),
        "exact_match": metrics.accuracy_score(right, guess),
        "f1_macro": metrics.f1_score(right, guess, average="macro", zero_division=0),
        "f1_micro": metrics.f1_score(right, guess, average="micro"),
    }


def areas():
    right = [rng.randrange(2) for _ in range(50)]
    scores = [round(label * 0.3 + rng.random(), 1) for label in right]
    many = [rng.randrange(3) for _ in range(60)]
    logits = numpy_rng.normal(size=(60, 3)) + np.eye(3)[many]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return {
        "right": right, "scores": scores, "auc": metrics.roc_auc_score(right, scores),
        "many": many, "shares": shares.flatten().tolist(),
        "auc_many": metrics.roc_auc_score(many, shares, multi_class="ovr", average="macro"),
    }


def numbers():
    left = [round(rng.gauss(0, 1), 1) for _ in range(40)]
    right = [round(value + rng.gauss(0, 1), 1) for value in left]
    return {
        "left": left, "right": right,
        "pearson": stats.pearsonr(left, right)[0], "spearman": stats.spearmanr(left, right)[0],
        "mse": metrics.mean_squared_error(left, right),
    }


def entities():
    cases = []
    for prefixes in ["BI", "I", "BIES"]:
        tags = ["O"] + [f"{prefix}-{kind}" for prefix in prefixes for kind in ["PER", "LOC", "x-y"]]
        right = [[rng.choice(tags) for _ in range(rng.randrange(1, 12))] for _ in range(30)]
        guess = [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in row] for row in right]
        report = classification_report(right, guess, output_dict=True)
        kinds = {kind: float(row["f1-score"]) for kind, row in report.items() if " avg" not in kind}
        cases.append({
            "right": right, "predicted": guess, "f1": entity_f1(right, guess), "kinds": kinds,
            "precision": float(report["micro avg"]["precision"]),
            "recall": float(report["micro avg"]["recall"]),
            "f1_macro": float(report["macro avg"]["f1-score"]),
        })
    return cases


def answers():
    texts = [
        ("The Eiffel Tower", ["eiffel tower", "Tower"]), ("in 1989.", ["1989", "the year 1989"]),
        ("", []), ("a cat", []), ("an apple—the pear", ["apple pear"]), ("the", ["The"]),
        ("", ["x"]), ("Denver  Broncos!", ["Denver Broncos", "The Denver Broncos"]),
        ("Ångström units", ["ångström"]), ("red red blue", ["red blue blue", "blue"]),
    ]
    none = [0.9, 0.1, 0.8, 0.3, 0.2, 0.5, 0.7, 0.05, 0.6, 0.4]
    rows = []
    for text, right in texts:
        each = right or [""]
        rows.append({
            "answer": text, "right": right,
            "exact": max(squad_metrics.compute_exact(one, text) for one in each),
            "f1": max(squad_metrics.compute_f1(one, text) for one in each),
        })
    names = [str(index) for index in range(len(rows))]
    f1s = {name: row["f1"] for name, row in zip(names, rows)}
    best, threshold = squad_metrics.find_best_thresh(
        {name: row["answer"] for name, row in zip(names, rows)}, f1s, dict(zip(names, none)),
        {name: bool(row["right"]) for name, row in zip(names, rows)},
    )
    return {"rows": rows, "no_answer": none, "best": best, "threshold": threshold}


def rankings():
    cases = []
    for size in [3, 8, 12]:
        scores = [round(rng.random(), 1) for _ in range(size)]
        gains = [rng.randrange(4) for _ in range(size)]
        cases.append({
            "scores": scores, "gains": gains,
            "ndcg": metrics.ndcg_score([gains], [scores]),
            "ndcg_at_3": metrics.ndcg_score([gains], [scores], k=3),
        })
    return cases


def texts():
    pairs = [
        ("The cat sat on the mat.", "The cat is sitting on the mat."),
        ("It costs $1,000.50 (about 900 EUR), I'm told - more or less!", "It costs $1,000.50 "
         "(around 900 euros), I'm told &quot;more or less&quot;."),
        ("Größe 12-14, z.B. a/b", "Größe 12-14 z. B. a/b"),
        ("x", "y z"), ("", "nothing here"),
        ("the the the the of rock", "the rock of the the ages"),
        ("A [list] of {things}; ~one~ two, three.", "A [list] of {things}: ~one~ two; three"),
    ]
    found, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    rouge = [scorer.score(reference, summary) for summary, reference in pairs]
    short = [["the cat sat"], ["the cat sat down there"]]
    return {
        "pairs": pairs,
        "bleu": sacrebleu.corpus_bleu(found, [right]).score,
        "chrf": sacrebleu.corpus_chrf(found, [right]).score,
        "rouge": [[row[name].fmeasure for name in ["rouge1", "rouge2", "rougeL"]] for row in rouge],
        "smoothed": {
            "pairs": [["the cat is on a mat", "a mat is where cats sit"]],
            "bleu": sacrebleu.corpus_bleu(
                ["the cat is on a mat"], [["a mat is where cats sit"]]).score,
        },
        "short": {"pairs": list(zip(*short)), "bleu": sacrebleu.corpus_bleu(short[0], [short[1]]).score},
    }


found = {
    "classes": classes(), "labels": labels(), "areas": areas(), "numbers": numbers(),
    "entities": entities(), "answers": answers(), "rankings": rankings(), "texts": texts(),
}
path = Path(__file__).with_name("scores.json")
path.write_text(json.dumps(found, ensure_ascii=False, default=float, separators=(",", ":")) + "\n")
