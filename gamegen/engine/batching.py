"""Batches of chunks that share forward passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from gamegen.engine.state import DenoisingState, Session
from gamegen.models.sampling import SamplingConfig

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one forward pass: sessions and their chunks.

    The first rows belong to `session_ids`; the others are padding.
    """

    session_ids: list[str]
    sessions: list[Session]
    chunks: list[DenoisingState]
    sampling: SamplingConfig

    @property
    def slots(self) -> list[int]:
        """Cache slots of all rows."""
        return [session.slot for session in self.sessions]


def make_batches(
    sessions: Mapping[str, Session],
    chunks: Mapping[str, DenoisingState],
    rows: int | None,
    splits_video: bool,
) -> list[Batch]:
    """Groups chunks with equal sampling into batches of `rows` rows, or of any size if `rows` is None.

    `splits_video` keeps chunks with a video prompt in batches of their own.
    """
    groups: dict[tuple[SamplingConfig, bool], list[str]] = {}
    # In slot order, because contiguous cache slots are read without copies.
    for session_id in sorted(chunks, key=lambda session_id: sessions[session_id].slot):
        is_split = splits_video and chunks[session_id].conditioning.video is not None
        groups.setdefault((sessions[session_id].params.sampling, is_split), []).append(session_id)
    batches = []
    for (sampling, _), session_ids in groups.items():
        size = rows or len(session_ids)
        for start in range(0, len(session_ids), size):
            ids = session_ids[start : start + size]
            padded_ids = padded(ids, rows)
            batches.append(
                Batch(
                    session_ids=ids,
                    sessions=[sessions[session_id] for session_id in padded_ids],
                    chunks=[chunks[session_id] for session_id in padded_ids],
                    sampling=sampling,
                )
            )
    return batches


def padded(items: list[T], rows: int | None) -> list[T]:
    """Pads a batch to the compiled row count by repeating its last item; unchanged if `rows` is None."""
    return items + items[-1:] * (rows - len(items) if rows else 0)
