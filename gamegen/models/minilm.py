"""all-MiniLM-L6-v2, a BERT of six layers, from the folder of its pip package.

PyTorch's own layers compute it: loading it with `transformers` takes a process four seconds longer.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

_LAYER_PARTS = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


class MiniLM(nn.Module):
    """Token ids int64 `(B, L)`, without padding, to token states float32 `(B, L, width)`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.width = config["hidden_size"]
        weights = load_file(folder / "model.safetensors")
        eps = config["layer_norm_eps"]
        tables = ("word", "position", "token_type")
        self.words, self.positions, self.types = (
            nn.Embedding.from_pretrained(weights[f"embeddings.{name}_embeddings.weight"]) for name in tables
        )
        self.norm = nn.LayerNorm(self.width, eps)
        self.norm.load_state_dict(
            {name: weights[f"embeddings.LayerNorm.{name}"] for name in ("weight", "bias")}
        )
        layer = nn.TransformerEncoderLayer(
            d_model=self.width,
            nhead=config["num_attention_heads"],
            dim_feedforward=config["intermediate_size"],
            activation=config["hidden_act"],
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config["num_hidden_layers"])
        for i, one in enumerate(self.encoder.layers):
            one.load_state_dict(_layer_weights(weights, f"encoder.layer.{i}."))

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Token states of texts of one length."""
        places = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        x_BLD = self.words(ids_BL) + self.positions(places) + self.types(torch.zeros_like(ids_BL))
        return self.encoder(self.norm(x_BLD))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of that folder, which neither cuts texts nor fills them up."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _layer_weights(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {}
    for kind in ("weight", "bias"):
        parts = [weights[f"{prefix}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
        found[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
        found |= {f"{mine}.{kind}": weights[f"{prefix}{its}.{kind}"] for its, mine in _LAYER_PARTS.items()}
    return found
