"""Makes the folders beside it: small tokenizers in the files of older models, with reference ids.

    pip install transformers==5.23.0 tokenizers==0.23.2 sentencepiece==0.2.2
    python make_tokenizers.py

`t5` is SentencePiece's, `gpt2` and `bert*` are transformers'. Each folder has `ids.json`: lines
of text with the ids that the reference gives them.
"""

import json
import pathlib

import sentencepiece
from tokenizers import ByteLevelBPETokenizer
from transformers import BertTokenizer, GPT2Tokenizer

HERE = pathlib.Path(__file__).parent
TEXT = (HERE / "../../../../docs/architecture.md").read_text()
LINES = [
    "A training step", " The  model makes its parameters; wait, does it?  ", "Crates & layers\n",
    "naïve CAFÉ 中文 a\u0301 ½", "", "tabs\tand\nlines", "it's 12,345 or (3.14)!", "😀 emoji",
    "[MASK] <extra_id_0> </s> <|endoftext|>", "##a don't",
]


def keep(name, ids):
    (HERE / name / "ids.json").write_text(json.dumps(
        [{"text": line, "ids": ids(line)} for line in LINES], indent=1) + "\n")


def t5():
    prefix = HERE / "t5/spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_prefix=str(prefix), vocab_size=200,
        normalization_rule_name="identity", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2, self_test_sample_size=0,
    )
    prefix.with_suffix(".vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=str(prefix.with_suffix(".model")))
    # Special tokens in text are transformers' doing, and T5's own rules make spaces of "\n", "\t".
    lines = [line for line in LINES if not set(line) & set("<\n\t")]
    (HERE / "t5/ids.json").write_text(json.dumps(
        [{"text": line, "ids": model.encode(line) + [1]} for line in lines], indent=1) + "\n")


def gpt2():
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(TEXT.splitlines(), vocab_size=340, show_progress=False,
                             special_tokens=["<|endoftext|>"])
    made.save_model(str(HERE / "gpt2"))
    reference = GPT2Tokenizer.from_pretrained(HERE / "gpt2")
    keep("gpt2", lambda line: reference(line).input_ids)


def bert(name, lower_case):
    words = sorted({word for word in TEXT.split() if word.isalpha()})[:150]
    characters = sorted({c for c in TEXT + "é½中" if not c.isspace()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    tokens += ["##" + c for c in characters] + [word for word in words if len(word) > 1]
    (HERE / name / "vocab.txt").write_text("\n".join(tokens) + "\n")
    # The vocabulary has upper-case letters either way: the configuration decides.
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower_case}
    (HERE / name / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
    reference = BertTokenizer.from_pretrained(HERE / name)
    keep(name, lambda line: reference(line).input_ids)


for folder in ["t5", "gpt2", "bert_lower", "bert_cased"]:
    (HERE / folder).mkdir(exist_ok=True)
t5()
gpt2()
bert("bert_lower", True)
bert("bert_cased", False)
