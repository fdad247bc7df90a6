"""Holds `bert4rs forward --grads` against transformers: random models of every architecture.

    pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0
    python check_forward.py target/debug/bert4rs [FOLDER…]

Batch 3, length 37, padding on both sides; every position is compared, padding too, with
transformers' default attention. Each FOLDER is a model of its own, such as a published one.
"""

import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, GPT2Config, T5Config

BATCH, TIME, VOCAB = 3, 37, 61
BERT = dict(vocab_size=VOCAB, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=80, max_position_embeddings=64)
GPT = dict(vocab_size=VOCAB, n_embd=48, n_layer=3, n_head=4, n_positions=64, bos_token_id=0,
           eos_token_id=0)
T5 = dict(vocab_size=VOCAB, d_model=48, d_kv=16, d_ff=80, num_layers=3, num_decoder_layers=2,
          num_heads=4, decoder_start_token_id=0)


def mask(time=TIME):
    keep = torch.ones(BATCH, time, dtype=torch.long)
    keep[0, :5] = 0
    keep[1, -9:] = 0
    keep[2, :3] = 0
    keep[2, -4:] = 0
    return keep


def ids(time=TIME, vocab=VOCAB):
    return torch.randint(1, vocab, (BATCH, time))


def labels(time=TIME):
    return torch.where(torch.rand(BATCH, time) < 0.4, ids(time), -100)


def cases():
    bert = lambda: {"input_ids": ids(), "attention_mask": mask(),
                    "token_type_ids": torch.randint(0, 2, (BATCH, TIME))}
    three = dict(BERT, num_labels=3)
    yield "BertModel", BertConfig(**BERT), bert()
    yield "BertForMaskedLM", BertConfig(**BERT), bert() | {"labels": labels()}
    both = {"labels": labels(), "next_sentence_label": torch.tensor([0, 1, 1])}
    yield "BertForPreTraining", BertConfig(**BERT), bert() | both
    for config, target in [
        (three, torch.tensor([2, 0, 1])),
        (three, torch.rand(BATCH, 3)),
        (dict(BERT, num_labels=1), torch.rand(BATCH)),
        (dict(three, problem_type="regression"), torch.rand(BATCH, 3)),
    ]:
        yield "BertForSequenceClassification", BertConfig(**config), bert() | {"labels": target}
    classes = labels().clamp(max=2)
    yield "BertForTokenClassification", BertConfig(**three), bert() | {"labels": classes}
    spans = {"start_positions": torch.tensor([7, 3, 60]), "end_positions": torch.tensor([9, 3, -1])}
    yield "BertForQuestionAnswering", BertConfig(**BERT), bert() | spans
    gpt = {"input_ids": ids(), "attention_mask": mask()}
    places = (mask().cumsum(1) - 1).clamp(min=0)
    yield "GPT2Model", GPT2Config(**GPT), gpt
    yield "GPT2LMHeadModel", GPT2Config(**GPT), gpt | {"labels": ids()}
    yield "GPT2LMHeadModel", GPT2Config(**GPT), gpt | {"labels": labels(), "position_ids": places}
    yield "GPT2LMHeadModel", GPT2Config(**GPT), {"input_ids": ids().int(), "labels": ids().int()}
    for projection in ["relu", "gated-gelu"]:
        config = lambda: T5Config(**T5, feed_forward_proj=projection)
        t5 = {"input_ids": ids(), "attention_mask": mask()}
        yield "T5ForConditionalGeneration", config(), t5 | {"labels": labels(23)}
        more = {"decoder_input_ids": ids(23), "labels": labels(23)}
        yield "T5ForConditionalGeneration", config(), t5 | more
        more["decoder_attention_mask"] = mask(23)
        yield "T5ForConditionalGeneration", config(), t5 | more


def reference(model, inputs):
    whole = {k: v.long() if not v.is_floating_point() else v for k, v in inputs.items()}
    output = model(**whole, output_hidden_states=True)
    if "last_hidden_state" in output:
        hidden = output.last_hidden_state
    else:
        hidden = (output.get("hidden_states") or output.get("decoder_hidden_states"))[-1]
    wanted = {"last_hidden_state": hidden}
    if output.get("prediction_logits") is not None:
        wanted["logits"] = output.prediction_logits
    for name in ["logits", "loss", "pooler_output", "seq_relationship_logits", "start_logits",
                 "end_logits", "encoder_last_hidden_state"]:
        if output.get(name) is not None:
            wanted[name] = output[name]
    if output.get("loss") is not None:
        output.loss.backward()
        for name, p in model.named_parameters():
            wanted["grad." + name] = p.grad if p.grad is not None else torch.zeros_like(p)
    return {name: value.detach() for name, value in wanted.items()}


def compare(program, folder, model, inputs):
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        save_file({k: v.contiguous() for k, v in inputs.items()}, work / "in.safetensors")
        command = [program, "forward", "--model", folder, "--input", work / "in.safetensors",
                   "--output", work / "out.safetensors"]
        wanted = reference(model, inputs)
        if "loss" in wanted:
            command.append("--grads")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = load_file(work / "out.safetensors")
    extra = found.keys() - wanted.keys() - {"logits"}
    assert not extra and not wanted.keys() - found.keys(), found.keys() ^ wanted.keys()
    worst = {"results": 0.0, "gradients": 0.0}
    for name, value in wanted.items():
        assert found[name].shape == value.shape, (name, found[name].shape, value.shape)
        assert value.isfinite().all() and found[name].isfinite().all(), name
        off = (found[name] - value).abs().max().item()
        if name.startswith("grad."):
            # A key's bias has no gradient but for rounding.
            off /= max(value.abs().max().item(), 1e-3)
            worst["gradients"] = max(worst["gradients"], off)
        else:
            worst["results"] = max(worst["results"], off)
    name = type(model).__name__
    print(f"{name:32}{worst['results']:8.1e}{worst['gradients']:9.1e}  {', '.join(inputs)}")
    assert worst["results"] <= 1e-5 and worst["gradients"] <= 1e-4, "too far off"


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    torch.manual_seed(0)
    for architecture, config, inputs in cases():
        model = getattr(transformers, architecture)(config)
        if getattr(config, "feed_forward_proj", "") == "gated-gelu":
            # v1.1 has a head of its own and no scaling.
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, config.d_model) * 0.1)
            model.config.tie_word_embeddings = False
            model.config.scale_decoder_outputs = False
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape) * 0.05)
        with tempfile.TemporaryDirectory() as folder:
            model.eval().save_pretrained(folder)
            compare(program, folder, model, inputs)
    for folder in sys.argv[2:]:
        config = transformers.AutoConfig.from_pretrained(folder)
        model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
        drawn = ids(vocab=config.vocab_size)
        compare(program, folder, model, {"input_ids": drawn, "attention_mask": mask()})


if __name__ == "__main__":
    main()
