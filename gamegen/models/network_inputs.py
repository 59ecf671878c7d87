"""Inputs of MSDiT besides the noisy latents: texts, the latents before, and the clip's format.

Shape suffixes as in `msdit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gamegen.models.attention import TextKVCache


@dataclass(frozen=True)
class Text:
    """A batch of encoded texts: token states `(B, L, D)`, which of them exist `(B, L)`, pooled `(B, D)`.

    A dropped text has no existing tokens and a zero pooled state. `cache` keeps what layers compute of it alone.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    cache: TextKVCache = field(default_factory=TextKVCache, repr=False, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether no row of the batch has a token, so that inference skips its layers; always false in training."""
        return self.cache.is_enabled and self.cache.get("is_empty", lambda: not self.mask.any().item())

    def to(self, device: torch.device) -> Text:
        """A copy on another device, with an empty cache."""
        return Text(self.tokens.to(device), self.mask.to(device), self.pooled.to(device))

    def rows(self, index: Tensor) -> Text:
        """The batch rows at `index`."""
        return Text(self.tokens[index], self.mask[index], self.pooled[index])

    def dropped(self, drop_B: Tensor) -> Text:
        """The batch without the texts of rows where `drop_B` `(B,)` is true."""
        keep = ~drop_B[:, None]
        return Text(self.tokens, self.mask & keep, self.pooled * keep)

    @classmethod
    def none(cls, batch: int, width: int, device: torch.device | str = "cpu") -> Text:
        """A batch of empty texts."""
        return cls(
            torch.zeros(batch, 1, width, device=device),
            torch.zeros(batch, 1, dtype=torch.bool, device=device),
            torch.zeros(batch, width, device=device),
        )

    @classmethod
    def stack(cls, texts: list[tuple[Tensor, Tensor] | None], width: int, length: int = 1) -> Text:
        """Pads (tokens `(L, D)`, pooled `(D,)`) pairs to one batch, of `length` at least; None is a dropped text."""
        length = max([length, *(len(text[0]) for text in texts if text is not None)])
        tokens = torch.zeros(len(texts), length, width)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        pooled = torch.zeros(len(texts), width)
        for i, text in enumerate(texts):
            if text is not None:
                tokens[i, : len(text[0])], pooled[i], mask[i, : len(text[0])] = text[0], text[1], True
        return cls(tokens, mask, pooled)


@dataclass(frozen=True)
class Previous:
    """The latent before each latent frame `(B, T, C, H, W)`, as it was or motion-compensated.

    The layers see it `noisy`, at `level` `(B, T)` (-1 where there is none); `latent` is the clean one, which
    remains where nothing new is drawn. `confidence` `(B, T, 1, H, W)` tells how far a motion-compensated one is to be
    trusted (`gamegen/models/motion_compensation.py`); None beside one as it was.
    """

    latent: Tensor
    noisy: Tensor
    level: Tensor
    confidence: Tensor | None = None

    def map(self, take: Callable[[Tensor], Tensor]) -> Previous:
        """The inputs with `take` applied to each tensor."""
        confidence = None if self.confidence is None else take(self.confidence)
        return Previous(take(self.latent), take(self.noisy), take(self.level), confidence)

    def rows(self, index: Tensor) -> Previous:
        """The batch rows at `index`."""
        return self.map(lambda tensor: tensor[index])


@dataclass(frozen=True)
class VideoFormat:
    """Facts of the clip that condition AdaLN besides the noise level."""

    fps: float = 24.0
    num_frames: int = 102
    aspect_ratio: float = 5 / 3


DEFAULT_FORMAT = VideoFormat()
