"""Makes `generation.json` and `generation_*.safetensors` beside it: what transformers generates.

    pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0
    python make_generation.py

Tiny models whose weights are far from their start, so that texts are not all alike and some end
early; prompts of different lengths, GPT's padded on the left. `processed` are logits after each
of transformers' processors.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

HERE = pathlib.Path(__file__).parent
VOCAB, NEW = 31, 14
PROMPTS = [[5, 9, 12, 3, 22, 8, 17], [7], [4, 4, 19], [11, 2, 25, 6, 13]]
CASES = [
    {},
    {"repetition_penalty": 1.4},
    {"num_beams": 3},
    {"num_beams": 4, "length_penalty": 2.0},
    {"num_beams": 4, "length_penalty": -0.5},
    {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never"},
    {"num_beams": 3, "length_penalty": 1.5, "early_stopping": "never"},
    {"num_beams": 2, "early_stopping": True},
    {"num_beams": 5, "early_stopping": True, "repetition_penalty": 1.2},
]


def randomise(model, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")):
                p.copy_(1 + 0.1 * noise)
            else:
                is_table = any(part in name for part in ("wte", "shared", "lm_head"))
                p.copy_((0.3 if is_table else 0.1 if p.dim() == 1 else spread) * noise)
    return model.eval()


def texts(model, inputs, begin):
    """A token that some texts have, but not all, ends them."""
    free = dict(max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    rows = model.generate(**inputs, **free)[:, begin:].tolist()
    count = lambda token: sum(token in row[1:] for row in rows)
    end = max((token for row in rows for token in row if count(token) < len(rows)), key=count)
    made = []
    for case in CASES:
        options = dict(max_new_tokens=NEW, do_sample=False, eos_token_id=end, pad_token_id=0)
        rows = model.generate(**inputs, **options, **case)[:, begin:].tolist()
        cut = [row[:row.index(end) + 1] if end in row else row for row in rows]
        made.append({"options": case, "texts": cut})
    lengths = [len(text) for case in made for text in case["texts"]]
    assert min(lengths) < NEW and max(lengths) >= NEW - 2, "some texts end early, some do not"
    return made, end


def keep(name, model, made):
    cases, end = made
    tensors = {key: p.detach().clone().contiguous() for key, p in model.named_parameters()}
    save_file(tensors, HERE / f"generation_{name}.safetensors")
    return {"config": json.loads(model.config.to_json_string(use_diff=False)), "cases": cases,
            "end": end}


def padded(side):
    longest = max(map(len, PROMPTS))
    ids, mask = torch.zeros(len(PROMPTS), longest, dtype=torch.long), None
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(PROMPTS):
        place = slice(longest - len(prompt), None) if side == "left" else slice(len(prompt))
        ids[row, place], mask[row, place] = torch.tensor(prompt), 1
    return {"input_ids": ids, "attention_mask": mask}


def gpt2():
    config = GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_inner=24,
                        n_positions=32, bos_token_id=1, eos_token_id=1)
    model = randomise(GPT2LMHeadModel(config), 3, 1.0)
    inputs = padded("left")
    return keep("gpt2", model, texts(model, inputs, inputs["input_ids"].shape[1]))


def t5():
    config = T5Config(vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
                      relative_attention_num_buckets=8, relative_attention_max_distance=20,
                      decoder_start_token_id=0)
    model = randomise(T5ForConditionalGeneration(config), 15, 0.6)
    return keep("t5", model, texts(model, padded("right"), 1))


def processed():
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(4)) * 2
    ids = torch.tensor([[3, 3, 9], [30, 0, 7]])
    made = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor(1.7),
        "temperature": TemperatureLogitsWarper(0.6),
        "top_k": TopKLogitsWarper(5),
        "top_p": TopPLogitsWarper(0.8),
    }
    finite = lambda x: torch.where(x.isinf(), -1e30, x).tolist()
    return {"logits": logits.tolist(), "ids": ids.tolist()} | {
        name: finite(processor(ids, logits.clone())) for name, processor in made.items()
    }


kept = {"prompts": PROMPTS, "max_new_tokens": NEW, "gpt2": gpt2(), "t5": t5(),
        "processed": processed()}
(HERE / "generation.json").write_text(json.dumps(kept) + "\n")
