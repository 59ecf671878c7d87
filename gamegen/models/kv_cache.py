"""KV caches of temporal attention, which let one new latent frame attend to those before it.

Shape suffixes as in `attention.py`; W cached frames of a session (a window's and the anchors).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from gamegen.models.rotary import Rotation, rotary_angles


@dataclass(frozen=True)
class CacheView:
    """Mask and rotations of one new frame of each active session, shared by all attentions with caches alike.

    `mask` `(B, 1, 1, 1, W)` is true where a frame is cached; `rotation` `(B, 1, 1, 1, E / 2)` is that of the new
    frame, and `far` that of its queries towards anchors which have left the window.
    """

    mask: Tensor
    rotation: Rotation
    far: Rotation


@dataclass(frozen=True)
class CachedKV:
    """Cached frames: rotated keys `(B, S, K, E, W)`, in any order, and values `(B, S, K, W, E)`."""

    keys: Tensor
    values: Tensor
    view: CacheView


class KVCache(Protocol):
    """Cache of one temporal attention, as the attention sees it."""

    def past(self) -> CachedKV:
        """The cached frames of the active sessions."""

    def stage(self, k: Tensor, v: Tensor) -> None:
        """Takes the new frame's rotated keys, and values, each `(B, S, K, 1, E)`."""


class RingCache:
    """Ring buffer of rotated keys, and values, of the last `window` latent frames and the first `anchors`.

    Keys are rotated by their frame's number in the stream: scores depend on distances alone, and none is longer than
    the window, so no distance grows with play. Tensors are allocated once, for every session slot; reading them copies
    nothing as long as the active slots are contiguous. No gradient flows through it.
    """

    def __init__(
        self,
        *,
        num_sessions: int,
        num_tokens: int,
        num_heads: int,
        head_dim: int,
        window: int,
        anchors: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.window = window
        self.anchors = anchors
        W, S, K, E = window + anchors, num_tokens, num_heads, head_dim
        self.keys = torch.zeros(num_sessions, S, K, E, W, dtype=dtype, device=device)
        self.values = torch.zeros(num_sessions, S, K, W, E, dtype=dtype, device=device)
        self._past: CachedKV | None = None
        self._staged: tuple[Tensor, Tensor] | None = None

    def select(self, slots: slice | Tensor, view: CacheView) -> None:
        """Chooses the session slots of the next batch, in batch order."""
        self._past = CachedKV(self.keys[slots], self.values[slots], view)

    def past(self) -> CachedKV:
        """The cached frames of the selected sessions."""
        assert self._past is not None
        return self._past

    def stage(self, k: Tensor, v: Tensor) -> None:
        """Takes the new frame's rotated keys, and values, `(B, S, K, 1, E)`, for `commit`."""
        self._staged = k, v

    @torch.no_grad()
    def commit(self, slots: Tensor, place: Tensor) -> None:
        """Writes the staged frame at `place` of each slot, both `(n,)`; rows after the n-th are padding."""
        assert self._staged is not None
        k, v = (
            rearrange(staged[: len(slots)], "b s k 1 e -> b s k e").to(self.keys.dtype)
            for staged in self._staged
        )
        # The two indices are not adjacent, so their axis comes first: it is the batch.
        self.keys[slots, ..., place] = k
        self.values[slots, ..., place, :] = v
        self._staged = None


class KVCaches:
    """Ring caches of all temporal attentions, in the order of the forward pass; at first all slots are selected.

    `lengths` are the numbers of frames that each session slot has committed.
    """

    def __init__(self, rings: Sequence[RingCache]) -> None:
        self.rings = list(rings)
        self._first = self.rings[0]
        self.lengths = [0] * len(self._first.keys)
        self._selected: tuple[list[int], list[int]] | None = None
        self.select(range(len(self.lengths)))

    def select(self, slots: Sequence[int]) -> None:
        """Chooses the session slots of the next batch, in batch order.

        The last may be repeated as padding: it is committed once.
        """
        self._active = list(slots)
        lengths = [self.lengths[slot] for slot in self._active]
        # All denoising steps of a chunk select the same; a commit in between changes lengths.
        if self._selected == (self._active, lengths):
            return
        self._selected = self._active, lengths
        first = self._active[0]
        is_run = self._active == list(range(first, first + len(self._active)))
        # A slice gives views, an index copies.
        index = slice(first, first + len(self._active)) if is_run else torch.tensor(self._active)
        view = self._view(lengths)
        for ring in self.rings:
            ring.select(index, view)

    def clear(self, slot: int) -> None:
        """Empties one session slot."""
        self.set_length(slot, 0)

    def set_length(self, slot: int, length: int) -> None:
        """Sets the number of frames a session slot has committed; frames that left the window need not be cached."""
        self.lengths[slot] = length

    def commit(self) -> None:
        """Writes the staged frame of each selected slot into every ring, over the slot's oldest frame."""
        anchors, window = self._first.anchors, max(self._first.window, 1)
        active = [*dict.fromkeys(self._active)]
        lengths = [self.lengths[slot] for slot in active]
        places = [n if n < anchors else anchors + (n - anchors) % window for n in lengths]
        index, place = torch.tensor(active), torch.tensor(places)
        for ring in self.rings:
            ring.commit(index, place)
        for slot in active:
            self.lengths[slot] += 1

    def _view(self, lengths: list[int]) -> CacheView:
        device, width = self._first.keys.device, self._first.keys.shape[-2]
        frames = self._first.window + self._first.anchors
        mask = torch.arange(frames) < torch.tensor(lengths)[:, None]

        def rotation(places: list[int]) -> Rotation:
            # In float64: after an hour of play, float32 would be off by thousandths of a turn.
            angles = rotary_angles(torch.tensor(places, dtype=torch.float64), width)
            cos, sin = (part.float().to(device)[:, None, None, None] for part in (angles.cos(), angles.sin()))
            return Rotation(cos, sin)

        return CacheView(
            mask.to(device)[:, None, None, None],
            rotation(lengths),
            rotation([min(length, frames) for length in lengths]),
        )
