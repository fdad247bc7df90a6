"""Makes `relative_*.safetensors` beside it: BERT's relatives, and GPT and T5 with other heads.

    pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python make_relatives.py [--check]

One file a family. `weight.NAME` and `grad.NAME` are those of the model that is pretrained, with
its inputs, `logits`, `last_hidden_state` and `loss`. Other heads stand on the same encoder:
`HEAD.weight.NAME` are the parameters that only they have, `HEAD.labels` and the like their
further inputs, `HEAD.logits`, `HEAD.loss` and `HEAD.grad.NAME` what they give. `HEAD.config` in
NAME.json is what their config.json has otherwise. Options and tolerance as in make_vectors.py.
"""

import argparse
import json
import sys

import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from make_vectors import BATCH, HERE, TIME, VOCAB, causal_inputs, padded_mask, randomise, record
from make_vectors import tokens

SEEN = lambda o: (o.loss, o.logits, o.hidden_states[-1])
SIZES = dict(
    vocab_size=VOCAB, hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=16, attn_implementation="eager",
)


def masked_inputs(pad, types=False):
    """Padding on both sides, and labels for some real tokens."""
    mask, ids = padded_mask(), tokens(2)
    ids[ids == pad] = VOCAB - 1
    ids[mask == 0] = pad
    drawn = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3))
    labels = torch.where((drawn < 0.3) & (mask == 1), tokens(4), torch.full_like(ids, -100))
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if types:
        inputs["token_type_ids"] = (torch.arange(TIME) >= 20).long().expand(BATCH, TIME).contiguous()
    return inputs


def head_inputs(inputs, pad):
    """Padding on the right alone: heads of sequences read the first token."""
    mask = torch.ones(BATCH, TIME, dtype=torch.long)
    mask[0, -5:] = 0
    mask[2, -11:] = 0
    ids = inputs["input_ids"].clone()
    ids[ids == pad] = 3
    ids[mask == 0] = pad
    return {"input_ids": ids, "attention_mask": mask}


LABELS = {
    "classes": {"labels": torch.tensor([2, 0, 1])},
    "several": {"labels": torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 1]])},
    "number": {"labels": torch.tensor([0.5, -1.0, 2.0])},
    "tokens": {"labels": torch.arange(BATCH * TIME).view(BATCH, TIME) % 3},
    "answers": {"start_positions": torch.tensor([7, 3, 20]),
                "end_positions": torch.tensor([9, 3, 22])},
    "replaced": {"labels": (torch.arange(BATCH * TIME).view(BATCH, TIME) % 5 == 0).long()},
}


def heads(tensors, config, inputs, cases):
    """Adds each head of `cases` (name: kind of labels, class, changes of the configuration)."""
    encoder = {k[len("weight."):]: v for k, v in tensors.items() if k.startswith("weight.")}
    changes = {}
    for seed, (name, (labels, cls, change)) in enumerate(cases.items()):
        change = {"num_labels": 1 if labels == "number" else 3} | change
        if labels in ("answers", "replaced"):
            change["num_labels"] = 2
        for key, value in change.items():
            setattr(config, key, value)
        config.problem_type = change.get("problem_type")
        model = randomise(cls(config), seed=20 + seed)
        model.load_state_dict(encoder, strict=False)
        model.zero_grad()
        given = inputs | LABELS[labels]
        output = model(**given)
        output.loss.backward()
        for key, p in model.named_parameters():
            if key not in encoder:
                tensors[f"{name}.weight.{key}"] = p
                tensors[f"{name}.grad.{key}"] = p.grad
        for key, value in given.items():
            tensors[f"{name}.{key}"] = value
        for key in ("loss", "logits", "start_logits", "end_logits"):
            if key in output:
                tensors[f"{name}.{key}"] = output[key]
        saved = json.loads(json.dumps(model.config.to_dict(), default=str))
        keys = ["id2label", "problem_type", "architectures"] + list(change)
        changes[name] = {k: saved[k] for k in keys if saved.get(k) is not None}
        changes[name]["architectures"] = [cls.__name__]
    return changes


def sequences(prefix):
    """The heads that all relatives have."""
    cls = lambda kind: getattr(tf, f"{prefix}For{kind}")
    return {
        "classes": ("classes", cls("SequenceClassification"), {}),
        "tokens": ("tokens", cls("TokenClassification"), {}),
        "answers": ("answers", cls("QuestionAnswering"), {}),
    }


def relative(prefix, config, cls, more, types=False):
    pad = config.pad_token_id
    model = randomise(cls(config), seed=1)
    inputs = masked_inputs(pad, types)
    tensors = record(model, inputs, SEEN)
    saved = model.config.to_dict() | {"architectures": [cls.__name__]}
    changes = heads(tensors, config, head_inputs(inputs, pad), sequences(prefix) | more)
    return saved, changes, tensors


def roberta():
    config = tf.RobertaConfig(**SIZES, max_position_embeddings=42, type_vocab_size=1, pad_token_id=1)
    more = {
        "several": ("several", tf.RobertaForSequenceClassification,
                    {"problem_type": "multi_label_classification"}),
        "number": ("number", tf.RobertaForSequenceClassification, {}),
    }
    return relative("Roberta", config, tf.RobertaForMaskedLM, more)


def distilbert():
    config = tf.DistilBertConfig(
        vocab_size=VOCAB, dim=12, n_layers=2, n_heads=3, hidden_dim=16,
        max_position_embeddings=40, attn_implementation="eager",
    )
    return relative("DistilBert", config, tf.DistilBertForMaskedLM, {})


def electra():
    config = tf.ElectraConfig(**SIZES, embedding_size=8, max_position_embeddings=40)
    more = {"replaced": ("replaced", tf.ElectraForPreTraining, {})}
    return relative("Electra", config, tf.ElectraForMaskedLM, more, types=True)


def modernbert():
    config = tf.ModernBertConfig(
        **(SIZES | {"num_hidden_layers": 4}), max_position_embeddings=40, local_attention=8,
        pad_token_id=0, bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    )
    more = {"mean": ("classes", tf.ModernBertForSequenceClassification,
                     {"classifier_pooling": "mean"})}
    return relative("ModernBert", config, tf.ModernBertForMaskedLM, more)


def gpt2():
    config = tf.GPT2Config(
        vocab_size=VOCAB, n_embd=12, n_layer=1, n_head=3, n_inner=16, n_positions=40,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation="eager",
    )
    model = randomise(tf.GPT2LMHeadModel(config), seed=6)
    tensors = record(model, causal_inputs(), SEEN)
    saved = model.config.to_dict() | {"architectures": ["GPT2LMHeadModel"]}
    inputs = head_inputs({"input_ids": tokens(5)}, 0)
    cases = {"classes": ("classes", tf.GPT2ForSequenceClassification, {}),
             "number": ("number", tf.GPT2ForSequenceClassification, {})}
    return saved, heads(tensors, config, inputs, cases), tensors


def t5_encoder():
    config = tf.T5Config(
        vocab_size=VOCAB, d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=3,
        relative_attention_num_buckets=8, relative_attention_max_distance=20,
        feed_forward_proj="gated-gelu", attn_implementation="eager",
    )
    model = randomise(tf.T5EncoderModel(config), seed=8)
    inputs = {"input_ids": tokens(9), "attention_mask": padded_mask()}
    with torch.no_grad():
        output = model(**inputs)
    tensors = inputs | {"last_hidden_state": output.last_hidden_state}
    tensors |= {"weight." + name: p for name, p in model.named_parameters()}
    return model.config.to_dict() | {"architectures": ["T5EncoderModel"]}, {}, tensors


CASES = [roberta, distilbert, electra, modernbert, gpt2, t5_encoder]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    worst = 0.0
    for case in CASES:
        torch.manual_seed(0)
        config, changes, tensors = case()
        name = f"relative_{case.__name__}"
        tensors = {key: t.detach().clone().contiguous() for key, t in tensors.items()}
        config = json.loads(json.dumps(config, default=str))
        text = json.dumps(config | {f"{k}.config": v for k, v in changes.items()}, indent=1,
                          sort_keys=True) + "\n"
        if not check:
            save_file(tensors, HERE / f"{name}.safetensors")
            (HERE / f"{name}.json").write_text(text)
            continue
        kept = load_file(HERE / f"{name}.safetensors")
        assert kept.keys() == tensors.keys(), name
        for key, value in tensors.items():
            worst = max(worst, (kept[key].double() - value.double()).abs().max().item())
    if check:
        print(f"largest deviation {worst:.1e}")
        sys.exit(worst > 1e-6)


if __name__ == "__main__":
    main()
