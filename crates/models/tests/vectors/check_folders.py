"""Loads in transformers the folders that the test `folders` keeps, and holds them against it.

    BERT4RS_KEEP_FOLDERS=/tmp/folders cargo test -p bert4rs-models folders
    python check_folders.py /tmp/folders
"""

import json
import pathlib
import sys

import transformers
from safetensors.torch import load_file

for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, f"{folder}: {wrong}"
    stored = load_file(folder / "model.safetensors")
    parameters = dict(model.named_parameters())
    assert parameters.keys() == stored.keys(), parameters.keys() ^ stored.keys()
    assert all((parameters[key] == value).all() for key, value in stored.items()), folder
    print(f"{folder.name}: {name} has all {len(stored)} tensors, and no other")
