"""Figures of a recovery run: the pauses of players after kills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.recovery.trials import KillOutcome, Trials
from gamegen.constants import FRAMES_PER_CHUNK
from loadtest.load.load_figures import STALL_S
from loadtest.players.play_record import PlayerStay


@dataclass(frozen=True)
class Spread:
    """Percentiles in seconds."""

    p50: float
    p95: float
    max: float


@dataclass(frozen=True, kw_only=True)
class RecoveryFigures:
    """Figures of all kills of one kind, over all sessions.

    `gap_s` is the longest time between two frames after a kill, of the sessions whose picture stopped (`stopped`);
    None if none did. `skipped_chunks` were logged and never shown, `most_skipped` of them in one session at one kill.
    `out_of_order` sessions were shown something again, or began anew. `whole_s` is how long it took until every replica
    and every proxy was there again.
    """

    kind: str
    kills: int
    sessions: int
    lost: int
    stopped: int
    gap_s: Spread | None
    skipped_chunks: int
    most_skipped: int
    out_of_order: int
    whole_s: Spread


@dataclass(frozen=True)
class _Seen:
    """One kill as one session saw it; `gap_s` is None for a session that was lost."""

    gap_s: float | None
    skipped: int = 0
    is_in_order: bool = True


def figures(trials: Trials) -> list[RecoveryFigures]:
    """Computes the figures of each kind, in the order of their first kills."""
    kinds = dict.fromkeys(kill.kind for kill in trials.kills)
    return [_of_kind(kind, [k for k in trials.kills if k.kind == kind], trials.stays) for kind in kinds]


def _of_kind(kind: str, kills: Sequence[KillOutcome], stays: Sequence[PlayerStay]) -> RecoveryFigures:
    seen = [_seen(kill, stay) for kill in kills for stay in stays]
    stopped = [one.gap_s for one in seen if one.gap_s is not None and one.gap_s > STALL_S]
    return RecoveryFigures(
        kind=kind,
        kills=len(kills),
        sessions=len(seen),
        lost=sum(one.gap_s is None for one in seen),
        stopped=len(stopped),
        gap_s=_spread(stopped) if stopped else None,
        skipped_chunks=sum(one.skipped for one in seen),
        most_skipped=max((one.skipped for one in seen), default=0),
        out_of_order=sum(not one.is_in_order for one in seen),
        whole_s=_spread([kill.whole_s - kill.at_s for kill in kills]),
    )


def _seen(kill: KillOutcome, stay: PlayerStay) -> _Seen:
    """Looks at the frames from the last one before the kill to the end of the recovery."""
    at_s = stay.frames["at_s"]
    begin = max(0, int(np.searchsorted(at_s, kill.at_s)) - 1)
    end = int(np.searchsorted(at_s, kill.until_s))
    frames = stay.frames[begin:end]
    if not len(frames) or frames["at_s"][-1] < kill.at_s:
        return _Seen(None)
    # The picture may have stopped again and not gone on.
    gaps = np.diff(frames["at_s"], append=kill.until_s)
    sequences = frames["sequence"].astype(np.int64)
    chunks = sequences // FRAMES_PER_CHUNK
    skipped = int(np.maximum(np.diff(chunks) - 1, 0).sum())
    return _Seen(float(gaps.max()), skipped, bool((np.diff(sequences) > 0).all()))


def _spread(seconds: Sequence[float]) -> Spread:
    p50, p95 = np.percentile(seconds, [50, 95])
    return Spread(float(p50), float(p95), float(np.max(seconds)))
