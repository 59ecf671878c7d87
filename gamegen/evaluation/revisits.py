"""Revisits: whether a world still shows what the player turned away from, once the player has turned back.

A world turns right until nothing of its first view is in sight, rests, and turns left just as long. The views before
and after are compared place by place, beside two distances: that of real clips whose player looked away and came back
(a world can remember no better), and that to the view that other seeds came back to (nothing is remembered).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gamegen.evaluation.context import EvaluationContext, SuiteConfig
from gamegen.evaluation.features import feature_network
from gamegen.evaluation.rollouts import Advance
from gamegen.evaluation.samples import Arrays
from gamegen.footage.clips import Clip

LOOK_AWAY_DEG = 90.0
"""Angle by which the player of a real clip must have looked away between two moments that are compared."""
NEAR_NODES, NEAR_DEG = 0.1, 1.0
"""Distance and angles within which two moments of a clip show one view."""
PAIRS_PER_CLIP = 4
_STRIDE_FRAMES = 6
_SCENE = ("biome", "weather", "time_of_day")


class Playable(Protocol):
    """Open worlds that can be played, such as a `WorldBatch`."""

    def play(self, keys: set[str], num_chunks: int) -> np.ndarray:
        """Every world's frames under held keys, uint8 `(worlds, 4 * num_chunks, H, W, 3)`."""


def look_away(worlds: Playable, config: SuiteConfig) -> np.ndarray:
    """Views of worlds before they turn away, turned away, and back: uint8 `(worlds, 3, H, W, 3)`.

    Each is seen at rest: the last frame of a turn shows only in the chunk after it.
    """
    before = worlds.play(set(), config.warm_chunks)[:, -1]
    worlds.play({"right"}, config.turn_chunks)
    away = worlds.play(set(), config.rest_chunks)[:, -1]
    worlds.play({"left"}, config.turn_chunks)
    back = worlds.play(set(), config.rest_chunks)[:, -1]
    return np.stack([before, away, back], 1)


def describe_views(frames: np.ndarray) -> np.ndarray:
    """Features of frames uint8 `(N, H, W, 3)` that are compared, float32 `(N, cells, channels)`."""
    return feature_network().maps(frames).by_cell()


def view_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square over cells of the distances of features `(..., cells, channels)`; 0 for equal views."""
    squares = np.square(a.astype(np.float64) - b.astype(np.float64)).sum(-1)
    return np.sqrt(squares.mean(-1))


def distance_to_others(before: np.ndarray, back: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Mean distance `(N,)` of each seed's view before to the views after of other seeds.

    `before` and `back` are features `(N, cells, channels)`, `words` `(N,)` tells which seeds were asked for the same:
    the others are those, so that words alone do not count as memory, or all seeds where there are none. Raises
    ValueError for fewer than 2 seeds.
    """
    if len(before) < 2:
        raise ValueError(f"{len(before)} seeds: the distance to another place needs at least 2")
    others = []
    for i, view in enumerate(before):
        is_other = np.arange(len(back)) != i
        is_alike = is_other & (words == words[i])
        others.append(view_distance(view, back[is_alike if is_alike.any() else is_other]).mean())
    return np.array(others)


def returns(clip: Clip) -> list[tuple[int, int]]:
    """Pairs of frames of a clip that show one view, at most `PAIRS_PER_CLIP`, spread over the clip.

    The player stands at about the same place and looks about the same way, in first person and with nothing of the
    scene changed, and looked away by at least `LOOK_AWAY_DEG` between. A clip without recorded poses has none.
    """
    if not (clip.position and clip.heading_deg and clip.tilt_deg):
        return []
    pairs = []
    for start in range(0, clip.num_frames, _STRIDE_FRAMES):
        end = _return_to(clip, start)
        if end is not None:
            pairs.append((start, end))
    chosen = np.linspace(0, len(pairs) - 1, min(PAIRS_PER_CLIP, len(pairs))).round().astype(int)
    return [pairs[i] for i in chosen]


def real_revisits(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Mean distance of the views of each real clip that its player comes back to, nan where there are none."""
    found = []
    for i in units:
        pairs = np.array(returns(context.clips[i].clip))
        distance = np.nan
        if len(pairs):
            views = describe_views(context.clips[i].frames(context.size)[pairs.ravel()])
            distance = float(view_distance(views[::2], views[1::2]).mean())
        found.append(distance)
        advance(1)
    return {"distance": np.array(found)}


def _return_to(clip: Clip, start: int) -> int | None:
    """First frame that shows the view of frame `start` after the player looked away; None if there is none."""
    if clip.view[start] != "first":
        return None
    heading = _apart_deg(clip.heading_deg, start)
    away = np.flatnonzero(heading >= LOOK_AWAY_DEG)
    if not len(away):
        return None
    position = np.array(clip.position[start:])
    is_near = (
        (heading <= NEAR_DEG)
        & (_apart_deg(clip.tilt_deg, start) <= NEAR_DEG)
        & (np.linalg.norm(position - position[0], axis=1) <= NEAR_NODES)
        & np.array([value == "first" for value in clip.view[start:]])
    )
    for name in _SCENE:
        values = getattr(clip, name)
        is_near &= np.array([value == values[start] for value in values[start:]])
    found = np.flatnonzero(is_near[away[0] :])
    return start + int(away[0] + found[0]) if len(found) else None


def _apart_deg(angles_deg: list[float], start: int) -> np.ndarray:
    """Angle between those of the frames from `start` on and that of `start`, 0 to 180."""
    angles = np.array(angles_deg[start:])
    return np.abs((angles - angles[0] + 180) % 360 - 180)
