"""Holds `bert4rs generate`, `fill-mask` and `embed` against transformers.

    pip install torch==2.11.0 transformers==5.23.0
    python check_text.py target/debug/bert4rs [FOLDER of all-MiniLM-L6-v2]

Random models with the small tokenizers that the data crate keeps.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

VECTORS = pathlib.Path(__file__).parent / "../../data/tests/vectors"
PROGRAM = pathlib.Path(sys.argv[1]).resolve()


def run(*args):
    made = subprocess.run([PROGRAM, *args], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in made.stdout.splitlines()]


def spread(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.2)
    return model.eval()


def check_generate(model, name, folder):
    for file in (VECTORS / name).iterdir():
        shutil.copy(file, folder)
    model.save_pretrained(folder)
    # transformers makes other steps of spiece.model than T5's own: ids come from the program.
    tokens = [json.loads((VECTORS / name / "ids.json").read_text())[i] for i in (0, 2)]
    prompts, ids = [t["text"] for t in tokens], [t["ids"] for t in tokens]
    cases = [({}, []), ({"num_beams": 3}, ["--beams", "3"]),
             ({"repetition_penalty": 1.3}, ["--repetition-penalty", "1.3"])]
    for options, flags in cases:
        for prompt, prompt_ids in zip(prompts, ids):
            found = run("generate", "--model", folder, "--prompt", prompt, "--json",
                        "--max-new-tokens", "20", *flags)[0]["token_ids"]
            made = model.generate(torch.tensor([prompt_ids]), max_new_tokens=20, do_sample=False,
                                  pad_token_id=0, **options)[0].tolist()
            begin = 1 if model.config.is_encoder_decoder else len(prompt_ids)
            assert found == made[begin:], (name, flags, prompt, found, made[begin:])
    both = run("generate", "--model", folder, "--prompt", *prompts, "--json")
    for row, prompt in zip(both, prompts):
        assert row == run("generate", "--model", folder, "--prompt", prompt, "--json")[0]
    print(f"generate: {name} equals transformers")


def check_fill_mask(folder):
    for file in (VECTORS / "bert_lower").iterdir():
        shutil.copy(file, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2,
                        num_attention_heads=2, intermediate_size=64)
    model = spread(BertForMaskedLM(config))
    model.save_pretrained(folder)
    text = "A [MASK] step of the [MASK]."
    found = run("fill-mask", "--model", folder, "--text", text, "--json", "--top-k", "3")[0]
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        best = model(ids).logits[ids == tokenizer.mask_token_id].softmax(-1).topk(3)
    for row, mask in enumerate(found["masks"]):
        assert [guess["token_id"] for guess in mask] == best.indices[row].tolist()
        for guess, value in zip(mask, best.values[row].tolist()):
            assert abs(guess["probability"] - value) < 1e-5
            assert guess["token"] == tokenizer.convert_ids_to_tokens(guess["token_id"])
    print("fill-mask equals transformers")


def check_embed(folder):
    texts = ["A man is eating food.", "The cheetah runs.", "long " * 400, ""]
    found = run("embed", "--model", folder, "--text", *texts, "--batch-size", "3")
    found = torch.tensor([row["embedding"] for row in found])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=longest,
                      return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    keep = batch["attention_mask"].unsqueeze(-1)
    want = (hidden * keep).sum(1) / keep.sum(1)
    off = (found - want).abs().max().item()
    print(f"embed: largest deviation {off:.1e}")
    assert off < 1e-5


torch.manual_seed(1)
with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    for name in ["gpt2", "t5", "bert"]:
        (work / name).mkdir()
    size = len(json.loads((VECTORS / "gpt2/vocab.json").read_text()))
    gpt = GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=128,
                     bos_token_id=0, eos_token_id=0)
    check_generate(spread(GPT2LMHeadModel(gpt)), "gpt2", work / "gpt2")
    t5 = T5Config(vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
                  decoder_start_token_id=0)
    check_generate(spread(T5ForConditionalGeneration(t5)), "t5", work / "t5")
    check_fill_mask(work / "bert")
if len(sys.argv) > 2:
    check_embed(pathlib.Path(sys.argv[2]))
