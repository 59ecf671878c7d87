"""The ring KV cache of temporal attention: what a new latent frame needs of those before it.

Shape suffixes as in `attention.py`; W cached frames of a session (a window's and the anchors).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from gamegen.models.attention import Rotation, rotary_angles

if TYPE_CHECKING:
    from gamegen.models.attention import TemporalAttention


@dataclass(frozen=True)
class Reach:
    """What every attention over the same cached frames shares for one new frame of each active session.

    `mask` `(B, 1, 1, 1, W)` is true where a frame stands; `rotation` `(B, 1, 1, 1, E / 2)` is that of the new frame,
    and `far` the one its queries have towards anchors, once those are out of the window.
    """

    mask: Tensor
    rotation: Rotation
    far: Rotation


@dataclass(frozen=True)
class Past:
    """Cached frames: rotated keys `(B, S, K, E, W)`, in any order, and values `(B, S, K, W, E)`."""

    keys: Tensor
    values: Tensor
    reach: Reach


class RingCache:
    """Rotated keys, and values, of the last `window - 1` latent frames and the first `anchors`, for one attention.

    Keys are rotated by their frame's number in the stream: scores depend on distances alone, and none is longer than
    the window, so no distance grows with play. Tensors are allocated once, for every session slot; reading them copies
    nothing as long as the active slots stand side by side. No gradient flows through it.
    """

    def __init__(
        self, attention: TemporalAttention, num_sessions: int, num_tokens: int, dtype: torch.dtype
    ) -> None:
        norm = attention.query_norm.weight
        self.window, self.anchors = attention.window - 1, attention.anchors
        W, S, K, E = self.window + self.anchors, num_tokens, attention.num_heads, len(norm)
        self.keys = torch.zeros(num_sessions, S, K, E, W, dtype=dtype, device=norm.device)
        self.values = torch.zeros(num_sessions, S, K, W, E, dtype=dtype, device=norm.device)
        self._past: Past | None = None
        self._new: tuple[Tensor, Tensor] | None = None

    def select(self, sessions: slice | Tensor, reach: Reach) -> None:
        """Chooses the session slots of the next batch, in batch order."""
        self._past = Past(self.keys[sessions], self.values[sessions], reach)

    def past(self) -> Past:
        """The cached frames of the active sessions."""
        assert self._past is not None
        return self._past

    def offer(self, k: Tensor, v: Tensor) -> None:
        """Takes the new frame's rotated keys, and values, `(B, S, K, 1, E)`, for `commit`."""
        self._new = k, v

    @torch.no_grad()
    def commit(self, sessions: Tensor, place: Tensor) -> None:
        """Writes what was offered last at a place of each session, both `(n,)`; rows after the n-th are left out."""
        assert self._new is not None
        k, v = (
            rearrange(new[: len(sessions)], "b s k 1 e -> b s k e").to(self.keys.dtype) for new in self._new
        )
        # Both indices stand apart, so their axis comes first: it is the batch.
        self.keys[sessions, ..., place] = k
        self.values[sessions, ..., place, :] = v
        self._new = None


class Caches:
    """One ring cache for each temporal attention, in the order the network meets them; at first all slots are active.

    `lengths` are the numbers of frames that each session slot has committed.
    """

    def __init__(self, rings: Sequence[RingCache]) -> None:
        self.rings = list(rings)
        self._one = self.rings[0]
        self.lengths = [0] * len(self._one.keys)
        self._selected: tuple[list[int], list[int]] | None = None
        self.select(range(len(self.lengths)))

    def select(self, sessions: Sequence[int]) -> None:
        """Chooses the session slots of the next batch, in batch order.

        The last may be there again and again, to fill the batch: it is committed once.
        """
        self._active = list(sessions)
        lengths = [self.lengths[session] for session in self._active]
        # Every denoising step asks for the same; a commit in between changes lengths.
        if self._selected == (self._active, lengths):
            return
        self._selected = self._active, lengths
        first = self._active[0]
        is_run = self._active == list(range(first, first + len(self._active)))
        # A slice gives views.
        index = slice(first, first + len(self._active)) if is_run else torch.tensor(self._active)
        reach = self._reach(lengths)
        for ring in self.rings:
            ring.select(index, reach)

    def clear(self, session: int) -> None:
        """Forgets one session slot."""
        self.set_length(session, 0)

    def set_length(self, session: int, length: int) -> None:
        """Says how many frames a session slot has seen; those of them that are out of reach need not be there."""
        self.lengths[session] = length

    def commit(self) -> None:
        """Writes the frame last read of each active session into every ring, in the place of its oldest."""
        anchors, window = self._one.anchors, max(self._one.window, 1)
        active = [*dict.fromkeys(self._active)]
        lengths = [self.lengths[session] for session in active]
        places = [n if n < anchors else anchors + (n - anchors) % window for n in lengths]
        index, place = torch.tensor(active), torch.tensor(places)
        for ring in self.rings:
            ring.commit(index, place)
        for session in active:
            self.lengths[session] += 1

    def _reach(self, lengths: list[int]) -> Reach:
        device, width = self._one.keys.device, self._one.keys.shape[-2]
        frames = self._one.window + self._one.anchors
        mask = torch.arange(frames) < torch.tensor(lengths)[:, None]

        def rotation(places: list[int]) -> Rotation:
            # In float64: after an hour of play, float32 would be off by thousandths of a turn.
            angles = rotary_angles(torch.tensor(places, dtype=torch.float64), width)
            cos, sin = (part.float().to(device)[:, None, None, None] for part in (angles.cos(), angles.sin()))
            return Rotation(cos, sin)

        return Reach(
            mask.to(device)[:, None, None, None],
            rotation(lengths),
            rotation([min(length, frames) for length in lengths]),
        )
