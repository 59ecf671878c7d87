"""Exemplars as views of a world: recorded pictures that it walks towards and turns to.

A frame that is moved chunk after chunk is magnified and worn, and where something should be new a small network draws
the mean of what could be. So a recorded picture is laid into the world with its depth and its pose, as a kept view is:

- **ahead** of a camera that walks, a few nodes away: what is far becomes what it shows from where the camera is, what
  is near is walked past, and when the camera has reached it, the next one follows;
- **beside** a camera that turns: what comes into view, and was never seen before, is filled in from it, from the
  second chunk of a turn on.

Shape suffixes as in `motion.py`; c and d rows and columns of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gamegen.models.camera import CameraMotion
from gamegen.models.exemplars import ExemplarQuery, Exemplars, light_gain, lit
from gamegen.models.folding import from_pixels, to_pixels
from gamegen.models.layered_warp import Layers
from gamegen.models.motion import PredictedMotion
from gamegen.models.view_memory import KeyView, RecalledView, ViewMemory

DepthOf = Callable[[Tensor], Tensor]
"""Inverse depth of a picture, `(1, 3, H, W)` to `(1, q, r)`."""
_AHEAD_NODES, _ASIDE_NODES = 3.0, 1.0
"""Distance at which an exemplar is laid, walking forwards or backwards, and to a side."""
_REACHED_NODES, _FAR_NODES, _LEAST_SEEN = 0.3, 4.0, 0.5
"""The next exemplar follows below and above these distances, and where less than this share of it is in view."""
_NEAR_NODES, _BEYOND_NODES, _LEAST_FAR = 2.5, 4.5, 0.2
"""Distances up to which a place is near and from which on it is far; below this share of far ones, all are."""
_BESIDE_DEG, _BESIDE_WIDTHS = 60.0, 0.6
"""Angle by which one is laid beside the frame, and about how many of its widths that is."""
_LEAST_LACKING, _LEAST_FILLED = 0.4, 0.6
"""Share of a frame's border that must lack scenery, and the share of what is lacking that an exemplar must show."""
_WORN_PIXELS, _FINE_PIXELS = 8, 4
"""Sizes of the blocks that are worn or not, and of the low-pass filter whose residual is the detail."""
_WORN_SHARE, _SHARE, _CHANGING_SHARE = 0.9, 0.5, 0.3
"""Share of the difference that a chunk takes over in worn places, and in others; and the part of it while an
instruction is new: the world should change as that says."""
_MOST_COVERED = 0.4
"""Share of a frame that may stand still in front of the camera."""
_BEFORE_NODES = 1.0
"""Distance from where a world began up to which it is as it began."""
_ALIKE = 0.1
"""Difference of low-passed pictures up to which detail is taken over."""
_AT_REST_NODES, _WALKING_NODES = 0.05, 0.4
"""Camera translation of a chunk up to which the residual is zero, and from which on it is whole: where one only looks
around, little is worn, and what one turns back to should be as it was."""


class Ahead(NamedTuple):
    """A residual to add to a frame, `(1, 3, H, W)` in [-1, 1], and the exemplar that it is of; None if of none."""

    residual: Tensor
    ahead: KeyView | None


def complete(
    exemplars: Exemplars,
    last_13HW: Tensor,
    layers: Layers,
    motion: PredictedMotion,
    memory: ViewMemory,
    query: ExemplarQuery,
    depth_of: DepthOf,
) -> Ahead:
    """Completes the last frame, before it is warped into the next chunk, from the exemplar that is walked towards.

    `layers` and `motion` are those of one row. Of a camera at rest the residual is zero, and the exemplar stays.
    """
    way = motion.translation[0, -1].double().cpu()
    amount = (float(way.norm()) - _AT_REST_NODES) / (_WALKING_NODES - _AT_REST_NODES)
    is_begun = memory.ahead is not None or memory.position.norm() >= _BEFORE_NODES
    if amount <= 0 or not is_begun:
        return Ahead(torch.zeros_like(last_13HW), memory.ahead)
    last, focal = last_13HW.float().cpu(), motion.focal.float().cpu()
    scenery = _scenery(layers)
    ahead, seen = _still_in_view(memory, way, focal)
    if ahead is None or seen is None:
        chosen = exemplars.choose(last, scenery, memory.ahead or memory.beside, query)
        depth = depth_of(chosen.picture)[0]
        ahead = memory.view_at(to_pixels(chosen.picture[0]), depth, chosen.covered, place_3=_place(way))
        seen = _seen_from(memory, ahead, focal)
    far = _far(motion.inverse_depth.float().cpu()[:, None], scenery)
    change = _towards(last, seen.picture, seen.places * scenery, far, query.is_instructed)
    change = change * (_CHANGING_SHARE if query.is_changing else 1.0)
    here, free = from_pixels(ahead.pixels()[None]), 1 - ahead.still.float()[None, None]
    change = change + _finer(last + change, here, free * scenery, query.is_instructed)
    completed = last + min(amount, 1.0) * change
    return Ahead((completed.clamp(-1, 1) - last).to(last_13HW), ahead)


class Beside(NamedTuple):
    """What an exemplar fills in that comes into view, None if nothing, and the exemplar; None if there is none."""

    view: RecalledView | None
    beside: KeyView | None


def fill_beside(
    exemplars: Exemplars,
    frames_K3HW: Tensor,
    layers: Layers,
    motion: PredictedMotion,
    memory: ViewMemory,
    recalled: RecalledView | None,
    query: ExemplarQuery,
    depth_of: DepthOf,
) -> Beside:
    """Finds what an exemplar shows of the places of a chunk's moved frames that nothing that was seen shows.

    `recalled` is what the memory shows there. `layers` and `motion` are those of one row.
    """
    unseen = layers.unseen[0] if recalled is None else layers.unseen[0] * (1 - recalled.seen)
    lacking = unseen[-1].float().cpu()
    side = _side(lacking)
    if query.is_changing or not side:
        return Beside(None, memory.beside)
    beside, shown, seen = memory.beside, None, None
    is_turning = beside is not None and memory.distance(beside) <= _FAR_NODES
    if beside is not None and is_turning:
        shown, seen = beside.moved(*memory.to_last(beside), motion.camera)
    if beside is None or seen is None or (seen[-1].cpu() * lacking).sum() < _LEAST_FILLED * lacking.sum():
        last = frames_K3HW[-1:].float().cpu()
        before = memory.beside or memory.ahead
        chosen = exemplars.choose(last, _scenery(layers), before, query, side * _BESIDE_WIDTHS)
        depth = depth_of(chosen.picture)[0]
        turned = _turned(math.radians(side * _BESIDE_DEG)) @ memory.rotation
        beside = memory.view_at(to_pixels(chosen.picture[0]), depth, chosen.covered, rotation=turned)
        if not is_turning:
            # What is next to the frame is more like its border than like any other picture.
            return Beside(None, beside)
        shown, seen = beside.moved(*memory.to_last(beside), motion.camera)
    assert shown is not None and seen is not None
    known = _over_pixels((seen * (1 - layers.unseen[0]) * (1 - layers.covered[0]))[-1:, None], shown)
    gain = light_gain(frames_K3HW[-1:].to(shown), shown[-1:], known, query.is_instructed)[0]
    return Beside(RecalledView(lit(shown, gain), seen, has_detail=False), beside)


def _side(lacking_qr: Tensor) -> int:
    """The side of the frame at which scenery is lacking: 1 right, -1 left, 0 if it is little or at both."""
    left, right = lacking_qr[:, 0].mean(), lacking_qr[:, -1].mean()
    return int(right > _LEAST_LACKING) - int(left > _LEAST_LACKING)


def _turned(yaw: float) -> Tensor:
    """Rotation to the axes of a camera that has turned to the right, in radians."""
    c, s = math.cos(yaw), math.sin(yaw)
    return torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]], dtype=torch.float64)


def _scenery(layers: Layers) -> Tensor:
    """Places of scenery, `(1, 1, q, r)`; all where most seems to be covered: nothing moves that cannot be seen."""
    covered = layers.covered.float().cpu()
    return 1 - covered if covered.mean() <= _MOST_COVERED else torch.ones_like(covered)


class _Seen(NamedTuple):
    """An exemplar from where the camera is, `(1, 3, H, W)`, its `places` `(1, 1, q, r)`, and the share of them."""

    picture: Tensor
    places: Tensor
    share: float


def _still_in_view(memory: ViewMemory, way_3: Tensor, focal: Tensor) -> tuple[KeyView | None, _Seen | None]:
    """The exemplar that is walked towards, if it is still ahead and in view."""
    view = memory.ahead
    if view is None:
        return None, None
    left = memory.rotation @ (view.position - memory.position) @ (way_3 / way_3.norm())
    if not _REACHED_NODES < left <= _FAR_NODES:
        return None, None
    seen = _seen_from(memory, view, focal)
    return (view, seen) if seen.share >= _LEAST_SEEN else (None, None)


def _far(inverse_depth_11qr: Tensor, scenery_11qr: Tensor) -> Tensor:
    """Places of a frame that are far away, `(1, 1, q, r)` from 0 to 1; ones everywhere if few are.

    In front of a wall all of the frame would otherwise stay as it is, and wear.
    """
    near, far = 1 / _NEAR_NODES, 1 / _BEYOND_NODES
    found = ((near - inverse_depth_11qr) / (near - far)).clamp(0, 1)
    share = (found * scenery_11qr).sum() / scenery_11qr.sum().clamp_min(1e-6)
    return found if share >= _LEAST_FAR else torch.ones_like(found)


def _seen_from(memory: ViewMemory, ahead: KeyView, focal: Tensor) -> _Seen:
    at_rest = CameraMotion(torch.eye(3)[None, None], torch.zeros(1, 1, 3), focal)
    picture, places = ahead.moved(*memory.to_last(ahead), at_rest)
    scenery = 1 - ahead.still.float().mean()
    return _Seen(picture.clamp(-1, 1), places[None], float(places.mean() / scenery.clamp_min(1e-6)))


def _place(way: Tensor) -> Tensor:
    """Where an exemplar is laid for a camera that moves this way, both in the last camera's axes."""
    direction = way / way.norm()
    forward = abs(float(direction[2]))
    return direction * (_ASIDE_NODES + (_AHEAD_NODES - _ASIDE_NODES) * forward)


def _towards(
    last_13HW: Tensor, exemplar_13HW: Tensor, places_11qr: Tensor, far_11qr: Tensor, is_instructed: bool
) -> Tensor:
    """Residual that makes the frame an exemplar where it is far away: at once where it is worn, else in a few chunks.

    What is near is walked past.
    """
    weight = F.interpolate(places_11qr, _coarse(last_13HW).shape[-2:], mode="area")
    share = (_WORN_SHARE * _worn(last_13HW, exemplar_13HW, weight)).clamp_min(_SHARE)
    in_light = _lit(exemplar_13HW, last_13HW, weight, is_instructed)
    # Blocks are larger than places, and a block in part covered would show some of what covers it.
    over_pixels = [_over_pixels(x, last_13HW) for x in (share, places_11qr, far_11qr)]
    return over_pixels[0] * over_pixels[1].square() * over_pixels[2] * (in_light - last_13HW)


def _finer(last_13HW: Tensor, exemplar_13HW: Tensor, places_11qr: Tensor, is_instructed: bool) -> Tensor:
    """Residual that adds an exemplar's high frequencies to worn places that are like it up to these.

    It is the exemplar as it was recorded: what is near the camera, mostly ground, is like what was near it then.
    """
    weight = F.interpolate(places_11qr, _coarse(last_13HW).shape[-2:], mode="area")
    in_light = _lit(exemplar_13HW, last_13HW, weight, is_instructed)
    difference = _coarse(last_13HW) - _coarse(in_light)
    is_alike = (difference.abs().mean(1, keepdim=True) < _ALIKE).float()
    share = _over_pixels(is_alike * _worn(last_13HW, in_light, weight), last_13HW)
    return share * (in_light + _over_pixels(difference, last_13HW) - last_13HW)


def _worn(last_13HW: Tensor, exemplar_13HW: Tensor, weight_11cd: Tensor) -> Tensor:
    """How far a frame's blocks lack an exemplar's high frequencies, from 0 to 1, times a weight, `(1, 1, c, d)`."""
    wanted = _detail(exemplar_13HW)
    worn = ((0.9 * wanted - _detail(last_13HW)) / (0.5 * wanted + 1e-3)).clamp(0, 1)
    return worn * weight_11cd


def _lit(exemplar_13HW: Tensor, last_13HW: Tensor, weight_11cd: Tensor, is_instructed: bool) -> Tensor:
    """An exemplar in the light of a frame, compared in blocks of this weight."""
    gain = light_gain(_coarse(last_13HW), _coarse(exemplar_13HW), weight_11cd, is_instructed)
    return lit(exemplar_13HW, gain[0])


def _over_pixels(values_1Ccd: Tensor, frame_13HW: Tensor) -> Tensor:
    return F.interpolate(values_1Ccd, frame_13HW.shape[-2:], mode="bilinear")


def _detail(frame_1CHW: Tensor) -> Tensor:
    """High-frequency energy of each block, a mean absolute value, `(1, 1, c, d)`."""
    low = F.interpolate(F.avg_pool2d(frame_1CHW, _FINE_PIXELS), frame_1CHW.shape[-2:], mode="bilinear")
    return _coarse((frame_1CHW - low).abs().mean(1, keepdim=True))


def _coarse(frame_1CHW: Tensor) -> Tensor:
    return F.avg_pool2d(frame_1CHW, _WORN_PIXELS)
