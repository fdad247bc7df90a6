"""BERT, GPT-2 and T5 as transformers has them, with logits of all tokens, as its users train."""

import torch
import transformers


def bert(config):
    model, data = config["model"], config["data"]
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=model["vocab_size"],
            hidden_size=model["hidden_size"],
            num_hidden_layers=model["num_layers"],
            num_attention_heads=model["num_heads"],
            intermediate_size=model["intermediate_size"] or 4 * model["hidden_size"],
            max_position_embeddings=model["max_positions"] or data["seq_len"],
            hidden_dropout_prob=model["dropout"],
            attention_probs_dropout_prob=model["attention_dropout"],
        )
    )


def gpt(config):
    model, data = config["model"], config["data"]
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=model["vocab_size"],
            n_embd=model["hidden_size"],
            n_layer=model["num_layers"],
            n_head=model["num_heads"],
            n_inner=model["intermediate_size"] or 4 * model["hidden_size"],
            n_positions=model["max_positions"] or data["seq_len"],
            resid_pdrop=model["dropout"],
            embd_pdrop=model["dropout"],
            attn_pdrop=model["attention_dropout"],
            use_cache=False,
        )
    )


def t5(config):
    """Version 1.1. transformers 5 ties its head to the table of words whatever the configuration
    says, and so starts it at a scale for a table; the published model has a head of its own."""
    model = config["model"]
    made = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=model["vocab_size"],
            d_model=model["hidden_size"],
            num_layers=model["num_layers"],
            num_decoder_layers=model["decoder_layers"] or model["num_layers"],
            num_heads=model["num_heads"],
            d_kv=model["head_size"] or model["hidden_size"] // model["num_heads"],
            d_ff=model["intermediate_size"] or 4 * model["hidden_size"],
            dropout_rate=model["dropout"],
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    head = torch.randn_like(made.lm_head.weight) * model["hidden_size"] ** -0.5
    made.lm_head.weight = torch.nn.Parameter(head)
    return made


def bert_inputs(batch):
    """Labels of all positions, as transformers' own collator makes them: -100 where no loss counts."""
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["masked_positions"]] = batch["masked_labels"]
    return {"input_ids": batch["input_ids"], "labels": labels}


def gpt_inputs(batch):
    """Labels that are shifted already, as bert4rs shifts them: none across documents."""
    labels = batch["next_ids"]
    return {"input_ids": batch["input_ids"], "labels": labels, "shift_labels": labels}


def t5_inputs(batch):
    return {name: batch[name] for name in ("input_ids", "decoder_input_ids", "labels")}


def build(config, device, bf16):
    """The model, and the function from a batch to its loss."""
    make, inputs = {
        "bert": (bert, bert_inputs),
        "gpt": (gpt, gpt_inputs),
        "t5": (t5, t5_inputs),
    }[config["model"]["family"]]
    model = make(config).to(device).train()

    def loss_of(batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return model(**inputs(batch)).loss

    return model, loss_of
