"""Loads in transformers the tokenizers that the test `model_tokenizer` keeps, or a trained model's.

    BERT4RS_KEEP_TOKENIZERS=/tmp/kept cargo test -p bert4rs-data model_tokenizer
    python check_tokenizers.py /tmp/kept/*
"""

import json
import pathlib
import sys

from transformers import AutoTokenizer

for folder in map(pathlib.Path, sys.argv[1:]):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = json.loads((folder / "ids.json").read_text())
    for case in cases:
        found = tokenizer(case["text"]).input_ids
        assert found == case["ids"], (folder, case, found)
    batch = tokenizer(["a", "a b c"], padding=True)
    assert len(set(map(len, batch["input_ids"]))) == 1
    print(folder.name, type(tokenizer).__name__, tokenizer.special_tokens_map, list(batch))
