"""BERT, GPT-2 and T5 tuned by hand in plain PyTorch: what an expert would write.

Weights in BF16 (the caller keeps FP32 masters), query, key and value in one product, attention by
scaled_dot_product_attention, one fused operation for each norm and activation, and for BERT
logits of masked tokens alone. Axes: b rows, t places, h heads, d features of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads, head_size, bias, causal=False, cross=False):
        super().__init__()
        inner = heads * head_size
        self.heads, self.head_size, self.causal = heads, head_size, causal
        self.query = nn.Linear(width, inner, bias) if cross else None
        self.mixed = nn.Linear(width, (2 if cross else 3) * inner, bias)
        self.output = nn.Linear(inner, width, bias)

    def forward(self, x, source=None, position_bias=None, scale=None):
        rows, places, _ = x.shape
        parts = self.mixed(x if source is None else source).chunk(3 if source is None else 2, -1)
        if source is not None:
            parts = (self.query(x), *parts)
        query, key, value = (
            part.view(rows, -1, self.heads, self.head_size).transpose(1, 2) for part in parts
        )
        causal = self.causal and position_bias is None
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=position_bias, is_causal=causal, scale=scale
        )
        return self.output(mixed.transpose(1, 2).reshape(rows, places, -1))


class BertBlock(nn.Module):
    """Norms behind each half."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention = Attention(width, heads, width // heads, True)
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    def __init__(self, vocabulary, width, layers, heads, inner, positions):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(positions, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, 1e-12)
        self.blocks = nn.ModuleList(BertBlock(width, heads, inner) for _ in range(layers))
        self.transform = nn.Linear(width, width)
        self.head_norm = nn.LayerNorm(width, 1e-12)
        self.head_bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, batch):
        ids = batch["input_ids"]
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places) + self.kinds.weight[0])
        for block in self.blocks:
            x = block(x)
        x = x.flatten(0, 1)[batch["masked_positions"]]
        x = self.head_norm(F.gelu(self.transform(x)))
        logits = F.linear(x, self.words.weight, self.head_bias)
        return F.cross_entropy(logits.float(), batch["masked_labels"])


class GptBlock(nn.Module):
    """Norms in front of each half."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention = Attention(width, heads, width // heads, True, causal=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocabulary, width, layers, heads, inner, positions):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(GptBlock(width, heads, inner) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, batch):
        ids = batch["input_ids"]
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x).flatten(0, 1), self.words.weight)
        return F.cross_entropy(logits.float(), batch["next_ids"].flatten(), ignore_index=-100)


def bucket(distance, bidirectional, buckets=32, furthest=128):
    """T5's buckets of a key's distance from its query (arXiv 1910.10683, section 2.1)."""
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = buckets // 2
    log = (distance.float().clamp(min=1) / exact).log() / math.log(furthest / exact)
    far = (exact + (log * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class T5Block(nn.Module):
    def __init__(self, width, heads, head_size, inner, decoder):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width, 1e-6) for _ in range(3 if decoder else 2))
        self.attention = Attention(width, heads, head_size, False, causal=decoder)
        self.cross = Attention(width, heads, head_size, False, cross=True) if decoder else None
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x, position_bias, source):
        x = x + self.attention(self.norms[0](x), None, position_bias, 1.0)
        if self.cross is not None:
            x = x + self.cross(self.norms[1](x), source, None, 1.0)
        gate, value = self.up(self.norms[-1](x)).chunk(2, -1)
        return x + self.down(F.gelu(gate, approximate="tanh") * value)


class T5Stack(nn.Module):
    def __init__(self, width, layers, heads, head_size, inner, decoder):
        super().__init__()
        self.decoder = decoder
        self.bias = nn.Embedding(32, heads)
        blocks = (T5Block(width, heads, head_size, inner, decoder) for _ in range(layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(width, 1e-6)

    def forward(self, x, source=None):
        places = torch.arange(x.shape[1], device=x.device)
        distance = places[None, :] - places[:, None]
        bias = self.bias(bucket(distance, not self.decoder)).permute(2, 0, 1)[None]
        if self.decoder:
            bias = bias.masked_fill(distance > 0, float("-inf"))
        for block in self.blocks:
            x = block(x, bias, source)
        return self.norm(x)


class T5(nn.Module):
    def __init__(self, vocabulary, width, layers, decoder_layers, heads, head_size, inner):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.encoder = T5Stack(width, layers, heads, head_size, inner, False)
        self.decoder = T5Stack(width, decoder_layers, heads, head_size, inner, True)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, batch):
        source = self.encoder(self.words(batch["input_ids"]))
        x = self.decoder(self.words(batch["decoder_input_ids"]), source)
        logits = self.head(x.flatten(0, 1))
        return F.cross_entropy(logits.float(), batch["labels"].flatten(), ignore_index=-100)


@torch.no_grad()
def initialise(model, family, width):
    """As published: BERT and GPT-2 draw with 0.02, T5 by the width of each input."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            fan = module.weight.shape[1]
            module.weight.normal_(0, fan**-0.5 if family == "t5" else 0.02)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0, 1.0 if family == "t5" else 0.02)
        if family == "t5" and isinstance(module, Attention):
            # Scores are not scaled: the query is drawn smaller instead.
            inner = module.heads * module.head_size
            query = module.mixed.weight[:inner] if module.query is None else module.query.weight
            query.normal_(0, (width * module.head_size) ** -0.5)
        if isinstance(module, T5Stack):
            module.bias.weight.normal_(0, width**-0.5)


def build(config, device, bf16):
    """The model, and the function from a batch to its loss."""
    sizes, data = config["model"], config["data"]
    if sizes["dropout"] or sizes["attention_dropout"]:
        raise SystemExit("error: the hand-tuned model has no dropout; set model.dropout = 0")
    family, width, heads = sizes["family"], sizes["hidden_size"], sizes["num_heads"]
    inner = sizes["intermediate_size"] or 4 * width
    positions = sizes["max_positions"] or data["seq_len"]
    if family == "t5":
        head_size = sizes["head_size"] or width // heads
        decoder_layers = sizes["decoder_layers"] or sizes["num_layers"]
        layers = sizes["num_layers"]
        model = T5(sizes["vocab_size"], width, layers, decoder_layers, heads, head_size, inner)
    else:
        kind = {"bert": Bert, "gpt": Gpt}[family]
        model = kind(sizes["vocab_size"], width, sizes["num_layers"], heads, inner, positions)
    initialise(model, family, width)
    model = model.to(device, torch.bfloat16 if bf16 else torch.float32).train()
    return model, model
