"""Makes the *.safetensors beside it: tiny models of transformers with inputs and results.

    pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python make_vectors.py [--check]

`--check` writes nothing and compares with the files that are there: bytes may differ between
CPUs, values must agree to 1e-6.

Each file holds `weight.NAME` and `grad.NAME` for every parameter, the inputs, `logits`,
`last_hidden_state` and `loss`; its `config` metadata is transformers' config.json, kept in
NAME.json for readers without metadata. Batch 3, length 37, padding on both sides, FP32.
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HERE = pathlib.Path(__file__).parent
BATCH, TIME, VOCAB = 3, 37, 23


def randomise(model, seed):
    """Every value away from its start, so that no parameter can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_gain = p.dim() == 1 and name.endswith("weight")
            p.copy_(1 + 0.1 * noise if is_gain else 0.2 * noise)
    return model.eval().float()


def padded_mask(time=TIME):
    mask = torch.ones(BATCH, time, dtype=torch.long)
    mask[0, :5] = 0
    mask[1, -9:] = 0
    mask[2, :3] = 0
    mask[2, -4:] = 0
    return mask


def tokens(seed, time=TIME):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB, (BATCH, time), generator=generator)


def record(model, inputs, seen):
    """Runs forward and backward; `seen` gives (loss, logits, hidden) from the output."""
    model.zero_grad()
    output = model(**inputs, output_hidden_states=True)
    loss, logits, hidden = seen(output)
    loss.backward()
    tensors = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
    tensors |= {"loss": loss, "logits": logits, "last_hidden_state": hidden}
    for name, p in model.named_parameters():
        tensors["weight." + name] = p
        tensors["grad." + name] = p.grad
    return {name: t.detach().clone().contiguous() for name, t in tensors.items()}


def bert():
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=16, max_position_embeddings=40, attn_implementation="eager",
    )
    model = randomise(BertForMaskedLM(config), seed=1)
    mask, ids = padded_mask(), tokens(2)
    ids[mask == 0] = config.pad_token_id
    drawn = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3))
    chosen = (drawn < 0.15) & (mask == 1)
    labels = torch.where(chosen, tokens(4), torch.full_like(ids, -100))
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(TIME) >= 20).long().expand(BATCH, TIME).contiguous(),
        "labels": labels,
    }
    return config, record(model, inputs, lambda o: (o.loss, o.logits, o.hidden_states[-1]))


def bert_heads():
    """The other heads on the encoder of `bert`, of which only the heads' weights are kept."""
    config, base = bert()
    encoder = {k[len("weight."):]: v for k, v in base.items() if k.startswith("weight.bert.")}
    inputs = {k: base[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
    classes = torch.tensor([2, 0, 1])
    spans = {"start_positions": torch.tensor([7, 3, 20]), "end_positions": torch.tensor([9, 3, 30])}
    cases = {
        "classes": (BertForSequenceClassification, {"labels": classes}),
        "tokens": (BertForTokenClassification, {"labels": base["labels"].clamp(max=2)}),
        "answers": (BertForQuestionAnswering, spans),
        "pretraining": (BertForPreTraining, {"labels": base["labels"],
                                             "next_sentence_label": torch.tensor([0, 1, 1])}),
    }
    tensors = {}
    for seed, (name, (head, labels)) in enumerate(cases.items()):
        config.num_labels = 2 if name == "answers" else 3
        model = randomise(head(config), seed=20 + seed)
        model.load_state_dict(encoder, strict=False)
        with torch.no_grad():
            output = model(**inputs, **labels)
        for key, p in model.named_parameters():
            if key not in encoder:
                tensors[f"{name}.weight.{key}"] = p.detach().clone()
        tensors |= {f"{name}.{key}": label for key, label in labels.items()}
        for key in ("loss", "logits", "start_logits", "seq_relationship_logits"):
            if key in output:
                tensors[f"{name}.{key}"] = output[key].detach().clone().contiguous()
    return config, tensors


def causal_inputs():
    """Labels are the tokens, but for padding and the first real token of a row."""
    mask, ids = padded_mask(), tokens(5)
    labels = ids.masked_fill(mask == 0, -100)
    labels[torch.arange(BATCH), mask.argmax(1)] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gpt2():
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=12, n_layer=2, n_head=3, n_inner=16, n_positions=40,
        bos_token_id=0, eos_token_id=0, attn_implementation="eager",
    )
    model = randomise(GPT2LMHeadModel(config), seed=6)
    seen = lambda o: (o.loss, o.logits, o.hidden_states[-1])
    return config, record(model, causal_inputs(), seen)


def qwen3():
    """RMS norm, SwiGLU, RoPE with YaRN, QK-norm, grouped heads and windows in one."""
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, intermediate_size=20, max_position_embeddings=64,
        use_sliding_window=True, sliding_window=7, max_window_layers=0, tie_word_embeddings=True,
        layer_types=["sliding_attention"], attn_implementation="eager",
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
            "original_max_position_embeddings": 16, "beta_fast": 4.0, "beta_slow": 0.5,
        },
    )
    model = randomise(Qwen3ForCausalLM(config), seed=7)
    inputs = causal_inputs()
    inputs["position_ids"] = torch.arange(TIME).expand(BATCH, TIME).contiguous()
    return config, record(model, inputs, lambda o: (o.loss, o.logits, o.hidden_states[-1]))


def t5(version):
    config = T5Config(
        vocab_size=VOCAB, d_model=12, d_kv=4, d_ff=16, num_layers=2, num_decoder_layers=1,
        num_heads=3,
        relative_attention_num_buckets=8, relative_attention_max_distance=20,
        feed_forward_proj={"1.0": "relu", "1.1": "gated-gelu"}[version],
        tie_word_embeddings=version == "1.0", decoder_start_token_id=0,
        attn_implementation="eager",
    )
    model = T5ForConditionalGeneration(config)
    if version == "1.1":
        # transformers 5 ties what v1.1's files untie: undo it, as loading such a file does.
        model.lm_head.weight = torch.nn.Parameter(torch.empty(VOCAB, config.d_model))
        config.tie_word_embeddings = False
    model = randomise(model, seed=8)
    time, mask = 29, padded_mask()
    decoder_mask = padded_mask(time)
    inputs = {
        "input_ids": tokens(9),
        "attention_mask": mask,
        "decoder_input_ids": tokens(10, time),
        "decoder_attention_mask": decoder_mask,
        "labels": tokens(11, time).masked_fill(decoder_mask == 0, -100),
    }
    seen = lambda o: (o.loss, o.logits, o.decoder_hidden_states[-1])
    return config, record(model, inputs, seen)


def rotary():
    """Frequencies and attention factors of real sizes, as JSON."""
    cases = []
    for head, theta, yarn in [
        (64, 10000.0, None),
        (64, 10000.0, {"factor": 4.0, "original_max_position_embeddings": 2048}),
        (128, 500000.0, {"factor": 40.0, "original_max_position_embeddings": 4096,
                         "beta_fast": 24.0, "beta_slow": 2.0}),
        (32, 1000.0, {"factor": 8.0, "original_max_position_embeddings": 512,
                      "attention_factor": 1.5}),
    ]:
        kind = {"rope_type": "default"} if yarn is None else {"rope_type": "yarn"} | yarn
        config = LlamaConfig(
            hidden_size=head, num_attention_heads=1, max_position_embeddings=131072,
            rope_parameters=kind | {"rope_theta": theta},
        )
        made = LlamaRotaryEmbedding(config)
        positions = torch.tensor([[0, 1, 7, 1000]])
        cos, sin = made(torch.zeros(1, dtype=torch.float32), positions)
        cases.append({
            "head_size": head,
            "rotary": {"theta": theta} | ({} if yarn is None else {"yarn": yarn}),
            "frequencies": made.inv_freq.tolist(),
            "attention_factor": made.attention_scaling,
            "cos_of_7": cos[0, 2].tolist(),
        })
    return cases


CASES = {
    "bert": bert,
    "bert_heads": bert_heads,
    "gpt2": gpt2,
    "qwen3": qwen3,
    "t5_1_0": lambda: t5("1.0"),
    "t5_1_1": lambda: t5("1.1"),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    worst = 0.0
    for name, case in CASES.items():
        torch.manual_seed(0)
        config, tensors = case()
        text = json.dumps(config.to_dict(), indent=2, sort_keys=True, default=str) + "\n"
        if not check:
            save_file(tensors, HERE / f"{name}.safetensors")
            (HERE / f"{name}.json").write_text(text)
            continue
        kept = load_file(HERE / f"{name}.safetensors")
        assert kept.keys() == tensors.keys(), name
        for key, value in tensors.items():
            worst = max(worst, (kept[key].double() - value.double()).abs().max().item())
    text = json.dumps(rotary()) + "\n"
    if not check:
        (HERE / "rotary.json").write_text(text)
    else:
        assert json.loads(text) == json.loads((HERE / "rotary.json").read_text()), "rotary"
        print(f"largest deviation {worst:.1e}")
        sys.exit(worst > 1e-6)


if __name__ == "__main__":
    main()
