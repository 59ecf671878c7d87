"""Figures of a run of `gamegen load`, computed from the stays of its players."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gamegen.bench.paired import summary_ms
from gamegen.constants import FPS, FRAMES_PER_CHUNK
from loadtest.load.crowd import Counts, CrowdResult
from loadtest.load.server_memory import ServerMemory
from loadtest.players.play_record import ANSWER_DTYPE, PlayerStay

STALL_S = 0.25
"""Gap between frames above which a player notices a stop."""
LATE_S = 1 / FPS
"""Lateness of a chunk's first frame above which the chunk counts as late."""
_WINDOW = 96
"""Frames (four seconds) whose quickest one gives the network's delay; the page does the same."""
_SHORTEST_S = 2.0
"""Shortest stay that has a frame rate."""

Summary = dict[str, float]
"""Mean and percentiles p50, p95 and p99, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class LoadFigures:
    """Figures of a whole run, described in docs/load.md; None for those that no player's frames could tell."""

    seconds: float
    counts: Counts
    lost: dict[str, int]
    migrations: int
    queued: int
    goodbyes: int
    errors: int
    saw_nothing: int
    players_mean: float
    players_max: int
    fps_mean: float | None
    fps_p5: float | None
    first_frame_ms: Summary | None
    gaps_ms: Summary | None
    stalls: int
    stalls_per_minute: float | None
    longest_gap_ms: float | None
    attainment: float | None
    on_pace: float | None
    key_to_frame_ms: Summary | None
    stages_ms: dict[str, Summary]
    dropped: int
    bytes_per_s: float
    bytes_per_frame: float | None
    memory: ServerMemory | None = None


def figures(crowd: CrowdResult, memory: ServerMemory | None = None, fps: int = FPS) -> LoadFigures:
    """Computes the figures over all stays of a crowd that asked for `fps` frames a second."""
    stays = crowd.stays
    seconds = crowd.ended_s - crowd.began_s
    seen = [stay for stay in stays if len(stay.frames)]
    gaps = _joined([watched_gaps_s(stay) for stay in seen])
    answers = np.concatenate([np.empty(0, ANSWER_DTYPE), *(stay.answers() for stay in seen)])
    rates = [rate for stay in seen if (rate := frame_rate(stay)) is not None]
    watched_minutes = sum(stay.left_s - stay.frames["at_s"][0] for stay in seen) / 60
    stalls = int((gaps > STALL_S).sum())
    chunks, in_time, pairs, on_pace = (
        np.array([chunk_counts(stay, fps) for stay in seen]).reshape(-1, 4).sum(0).tolist()
    )
    players_mean, players_max = at_once(stays, seconds)
    num_frames = sum(len(stay.frames) for stay in seen)
    num_bytes = sum(int(stay.frames["num_bytes"].sum()) for stay in seen)
    return LoadFigures(
        seconds=seconds,
        counts=crowd.counts,
        lost=dict(Counter(stay.lost for stay in stays if stay.lost is not None)),
        migrations=sum(stay.migrations for stay in stays),
        queued=sum(stay.queued for stay in stays),
        goodbyes=sum(stay.goodbyes for stay in stays),
        errors=sum(stay.errors for stay in stays),
        saw_nothing=sum(not len(s.frames) and s.left_s - s.joined_s > _SHORTEST_S for s in stays),
        players_mean=players_mean,
        players_max=players_max,
        fps_mean=float(np.mean(rates)) if rates else None,
        fps_p5=float(np.percentile(rates, 5)) if rates else None,
        first_frame_ms=_summary(np.array([stay.frames["at_s"][0] - stay.joined_s for stay in seen])),
        gaps_ms=_summary(gaps),
        stalls=stalls,
        stalls_per_minute=stalls / watched_minutes if watched_minutes else None,
        longest_gap_ms=float(gaps.max() * 1e3) if len(gaps) else None,
        attainment=in_time / chunks if chunks else None,
        on_pace=on_pace / pairs if pairs else None,
        key_to_frame_ms=_summary(answers["taken_s"]),
        stages_ms=stages_ms(answers),
        dropped=sum(stay.dropped for stay in seen),
        bytes_per_s=num_bytes / seconds if seconds else 0.0,
        bytes_per_frame=num_bytes / num_frames if num_frames else None,
        memory=memory,
    )


def watched_gaps_s(stay: PlayerStay) -> np.ndarray:
    """Seconds between frames, and those from the last frame to leaving if the picture had stopped by then."""
    gaps = stay.gaps_s()
    left_s = stay.left_s - stay.frames["at_s"][-1]
    return np.append(gaps, left_s) if left_s > STALL_S else gaps


def frame_rate(stay: PlayerStay) -> float | None:
    """Frames a second from the first on; None for a stay that saw less than two seconds."""
    watched_s = watched_gaps_s(stay).sum()
    return (len(stay.frames) - 1) / float(watched_s) if watched_s >= _SHORTEST_S else None


def lateness_s(frames: np.ndarray) -> np.ndarray:
    """Lateness of each frame of one socket in seconds: its delay beyond that of the quickest of the last frames.

    The server's clock is not ours, so only differences mean something.
    """
    if not len(frames):
        return np.empty(0)
    lags = frames["at_s"] - frames["due_ms"] / 1e3
    padded = np.concatenate([np.full(_WINDOW - 1, np.inf), lags])
    return lags - np.lib.stride_tricks.sliding_window_view(padded, _WINDOW).min(1)


def chunk_counts(stay: PlayerStay, fps: int = FPS) -> tuple[int, int, int, int]:
    """Chunks, those whose first frame came in time; pairs of neighbours, those due one after the other at full pace.

    A chunk whose first frame never came counts as late. A pair is at full pace when the later one is due at most
    `LATE_S` later than `fps` allow.
    """
    chunks = in_time = pairs = on_pace = 0
    for socket in np.unique(stay.frames["socket"]):
        frames = stay.frames[stay.frames["socket"] == socket]
        is_first = frames["frame"] == 0
        heads = frames[is_first]
        if not len(heads):
            continue
        numbers = heads["chunk"].astype(np.int64)
        chunks += max(int(frames["chunk"].max()) - int(numbers[0]) + 1, len(heads))
        in_time += int((lateness_s(frames)[is_first] <= LATE_S).sum())
        steps = np.diff(numbers)
        apart_s = np.diff(heads["due_ms"])[steps == 1] / 1e3
        pairs += len(apart_s)
        on_pace += int((apart_s <= FRAMES_PER_CHUNK / fps + LATE_S).sum())
    return chunks, in_time, pairs, on_pace


def at_once(stays: Sequence[PlayerStay], seconds: float) -> tuple[float, int]:
    """Mean number of players at once over `seconds`, and the highest."""
    mean = sum(stay.left_s - stay.joined_s for stay in stays) / seconds if seconds else 0.0
    # Who leaves in the same moment in which another comes makes room first.
    moves = sorted([(s.joined_s, 1) for s in stays] + [(s.left_s, -1) for s in stays])
    return mean, int(np.cumsum([step for _, step in moves]).max(initial=0))


def stages_ms(answers: np.ndarray) -> dict[str, Summary]:
    """Stages of the time from a key to its frame; empty if no key was answered."""
    if not len(answers):
        return {}
    parts = {name: answers[f"{name}_s"] for name in ("wait", "step", "decode")}
    rest = answers["taken_s"] - sum(parts.values())
    return {name: summary_ms(seconds) for name, seconds in {**parts, "rest": rest}.items()}


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0), *arrays])


def _summary(seconds: np.ndarray) -> Summary | None:
    return summary_ms(seconds) if len(seconds) else None
