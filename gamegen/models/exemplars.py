"""Exemplars: recorded pictures that a world walks towards, so that there is something to see where it goes.

A frame that is moved chunk after chunk is magnified and worn, and where something should be new a small network draws
the mean of what could be. Before a chunk of walking, the recorded picture that looks most like the frame, and shows
what the prompt asks for, is laid into the world a few nodes ahead, with its depth and its pose: as a kept view. What is
worn is replaced by what that view shows from where the camera is. When the camera has passed it, the next picture
follows (walking through a collection of photographs: Kaneva et al. 2010, "Infinite images", section 3).

The choice is a function of the frame, the prompt, the picture before, the seed and the chunk's number.

Shape suffixes as in `motion.py`; N exemplars, A attributes, c and d rows and columns of the coarse pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from cachetools import LRUCache
from torch import Tensor

from gamegen.models.camera import CameraMotion
from gamegen.models.folding import from_pixels, to_pixels
from gamegen.models.layered_warp import Layers
from gamegen.models.motion import PredictedMotion
from gamegen.models.text import TextStates
from gamegen.models.view_memory import KeyView, ViewMemory

_COMPARED_PIXELS = 16
"""Block size of the low-pass filter by which pictures are compared."""
_GAIN_LIMIT, _GAIN_POWER = 1.3, 0.5
"""Light of an exemplar may be changed by this factor, and how much of the way it is: a world that has grown dark gets
light again."""
_INSTRUCTED_LIMIT = 3.0
"""The same where an instruction is in force, which may be about the light: all of the way."""
_PREFERENCE, _FIRST_PREFERENCE = 0.12, 0.36
"""Mean absolute difference, in [-1, 1], that a nat of likelihood under the prompt makes up for; for the first exemplar,
which the later ones are like."""
_LIKE_BEFORE = 0.67
"""Weight of the difference from the exemplar before, beside that from the frame, which is magnified and worn."""
_OTHER_SCENE = 0.08
"""The same for each attribute of the scene that is another one than before."""
_ELIGIBLE_SHARE = 0.5
"""Share of the exemplars, by the seed and the chunk's number, that a choice is made of: worlds should differ."""
_SAME = 0.02
"""Difference up to which a picture is the one that is shown already."""
_AHEAD_NODES, _ASIDE_NODES = 3.0, 1.0
"""Distance at which an exemplar is laid, walking forwards or backwards, and to a side."""
_FAR_NODES, _LEAST_SEEN = 4.0, 0.5
"""Distance from which on, and share of its scenery in view below which, the next one follows."""
_WORN_PIXELS, _FINE_PIXELS = 8, 4
"""Sizes of the blocks that are worn or not, and of the low-pass filter whose residual is the detail."""
_WORN_SHARE, _SHARE, _CHANGING_SHARE = 0.9, 0.3, 0.3
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
_KEPT_PROMPTS = 64


class Completion(NamedTuple):
    """A residual to add to a frame, `(1, 3, H, W)` in [-1, 1], and the exemplar that it is of; None if of none."""

    residual: Tensor
    ahead: KeyView | None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a chunk should show: its world's prompt, its seed and its number.

    Where an instruction is in force (`is_instructed`), the prompt says less of what should be seen than the frame does,
    and its light is kept. While it is new (`is_changing`), little is taken over.
    """

    prompt: TextStates
    is_instructed: bool
    is_changing: bool
    seed: int
    number: int


class Exemplars:
    """Recorded pictures of the frames' size, uint8 `(H, W, 3)`, what is seen in them, and which a prompt asks for.

    `covered`, one bool `(q, r)` for each, are places in which something stands in front of the scenery. `scenes` `(N,
    A)` are numbers of attributes' values, -1 where they are not known. `preference` gives log likelihoods
    under a text's pooled encoding `(D,)`, at most 0, -inf for pictures that may not be chosen.
    """

    def __init__(
        self,
        pictures: Sequence[np.ndarray],
        covered: Sequence[np.ndarray],
        scenes: np.ndarray,
        preference: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self._pictures = pictures
        self._covered = covered
        self._preference = preference
        self._scenes_NA = torch.from_numpy(scenes)
        self._coarse_N3cd = torch.cat([_coarse(_values(picture)) for picture in pictures])
        self._preferences: LRUCache[int, tuple[TextStates, Tensor]] = LRUCache(_KEPT_PROMPTS)

    def complete(
        self,
        last_13HW: Tensor,
        layers: Layers,
        motion: PredictedMotion,
        memory: ViewMemory,
        wish: Wish,
        depth_of: Callable[[Tensor], Tensor],
    ) -> Completion:
        """Completes the last frame, before it is warped into the next chunk, from the exemplar that is walked towards.

        `layers` and `motion` are those of one row. `depth_of` gives a picture's inverse depth, `(1, 3, H, W)` to `(1,
        q, r)`. Of a camera at rest the residual is zero, and the exemplar stays.
        """
        way = motion.translation[0, -1].double().cpu()
        amount = (float(way.norm()) - _AT_REST_NODES) / (_WALKING_NODES - _AT_REST_NODES)
        walked_nodes = memory.position.norm()
        if amount <= 0 or (memory.ahead is None and walked_nodes < _BEFORE_NODES):
            return Completion(torch.zeros_like(last_13HW), memory.ahead)
        last, focal = last_13HW.float().cpu(), motion.focal.float().cpu()
        covered = layers.covered.float().cpu()
        if covered.mean() > _MOST_COVERED:
            # Where nothing can be seen, nothing seems to move.
            covered = torch.zeros_like(covered)
        ahead, seen = memory.ahead, None
        if ahead is not None and memory.distance(ahead) <= _FAR_NODES:
            seen = _seen_from(memory, ahead, focal)
        if ahead is None or seen is None or seen.share < _LEAST_SEEN:
            picture, front = self._choice(last, 1 - covered, ahead, wish)
            ahead = memory.view_at(to_pixels(picture[0]), depth_of(picture)[0], front, _place(way))
            seen = _seen_from(memory, ahead, focal)
        change = _towards(last, seen.picture, seen.places * (1 - covered), wish.is_instructed)
        change = change * (_CHANGING_SHARE if wish.is_changing else 1.0)
        here, scenery = from_pixels(ahead.pixels()[None]), 1 - ahead.still.float()[None, None]
        change = change + _finer(last + change, here, scenery * (1 - covered), wish.is_instructed)
        completed = last + min(amount, 1.0) * change
        return Completion((completed.clamp(-1, 1) - last).to(last_13HW), ahead)

    def _choice(
        self, last_13HW: Tensor, scenery_11qr: Tensor, before: KeyView | None, wish: Wish
    ) -> tuple[Tensor, Tensor]:
        """The exemplar that is most like the frame and the one before, `(1, 3, H, W)`, in the frame's light.

        With it the places in which something stands in front of its scenery, `(q, r)`.
        """
        coarse = F.interpolate(last_13HW, self._coarse_N3cd.shape[-2:], mode="area")
        share = F.interpolate(scenery_11qr, coarse.shape[-2:], mode="area")
        share = share / share.sum().clamp_min(1e-6)
        gain_N3, cost_N = self._compared(coarse, share, wish.is_instructed)
        is_same_N = cost_N < _SAME
        preference_N = self._preferred(wish.prompt)
        if wish.is_instructed:
            preference_N = preference_N.where(preference_N.isinf(), 0.0)
        elif before is not None:
            shown = F.interpolate(_values(before.pixels().numpy()), coarse.shape[-2:], mode="area")
            _, difference_N = self._compared(shown, share)
            is_same_N |= difference_N < _SAME
            cost_N = cost_N + _LIKE_BEFORE * (difference_N - cost_N)
        cost_N = cost_N - (_FIRST_PREFERENCE if before is None else _PREFERENCE) * preference_N
        here_A = self._scenes_NA[int(cost_N.argmin())]
        cost_N = cost_N + _OTHER_SCENE * (self._scenes_NA != here_A).sum(1)
        drawn = np.random.default_rng([wish.seed, wish.number]).random(len(self._pictures))
        is_left_out_N = is_same_N | torch.from_numpy(drawn >= _ELIGIBLE_SHARE)
        # Of a few pictures all may be left out; those of another perspective cost infinitely much.
        best = int((cost_N + 10 * is_left_out_N).argmin())
        picture = F.interpolate(_values(self._pictures[best]), last_13HW.shape[-2:], mode="bilinear")
        front = torch.from_numpy(self._covered[best])[None, None].float()
        front = F.interpolate(front, scenery_11qr.shape[-2:], mode="nearest")[0, 0]
        return ((picture + 1) * gain_N3[best, :, None, None] - 1).clamp(-1, 1), front

    def _compared(
        self, coarse_13cd: Tensor, share_11cd: Tensor, is_instructed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gains `(N, 3)` that give exemplars the light of a coarse picture, and their differences then, `(N,)`."""
        gain_N3 = _gain(coarse_13cd, self._coarse_N3cd, share_11cd, is_instructed)
        lit = (self._coarse_N3cd + 1) * gain_N3[:, :, None, None] - 1
        return gain_N3, ((lit - coarse_13cd).abs().mean(1) * share_11cd[:, 0]).sum((1, 2))

    def _preferred(self, prompt: TextStates) -> Tensor:
        """Log likelihoods of the exemplars under a prompt, float32 `(N,)`, cached."""
        kept = self._preferences.get(id(prompt))
        if kept is None:
            found = torch.from_numpy(self._preference(prompt.pooled.float().cpu().numpy())).float()
            # With the prompt, so that no other gets its id while this is kept.
            self._preferences[id(prompt)] = kept = prompt, found
        return kept[1]


class _Seen(NamedTuple):
    """An exemplar from where the camera is, `(1, 3, H, W)`, its `places` `(1, 1, q, r)`, and the share of them."""

    picture: Tensor
    places: Tensor
    share: float


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


def _towards(last_13HW: Tensor, exemplar_13HW: Tensor, places_11qr: Tensor, is_instructed: bool) -> Tensor:
    """Residual that makes the frame an exemplar: at once where it is worn, in a few chunks elsewhere."""
    weight = F.interpolate(places_11qr, _coarse(last_13HW, _WORN_PIXELS).shape[-2:], mode="area")
    share = weight * (_WORN_SHARE * _worn(last_13HW, exemplar_13HW, weight)).clamp_min(_SHARE)
    lit = _lit(exemplar_13HW, last_13HW, weight, is_instructed)
    # Blocks are larger than places, and a block in part covered would show some of what covers it.
    over_pixels = [_over_pixels(x, last_13HW) for x in (share, places_11qr)]
    return over_pixels[0] * over_pixels[1].square() * (lit - last_13HW)


def _finer(last_13HW: Tensor, exemplar_13HW: Tensor, places_11qr: Tensor, is_instructed: bool) -> Tensor:
    """Residual that adds an exemplar's high frequencies to worn places that are like it up to these.

    It is the exemplar as it was recorded: what is near the camera, mostly ground, is like what was near it then.
    """
    weight = F.interpolate(places_11qr, _coarse(last_13HW, _WORN_PIXELS).shape[-2:], mode="area")
    lit = _lit(exemplar_13HW, last_13HW, weight, is_instructed)
    difference = _coarse(last_13HW, _WORN_PIXELS) - _coarse(lit, _WORN_PIXELS)
    is_alike = (difference.abs().mean(1, keepdim=True) < _ALIKE).float()
    share = _over_pixels(is_alike * _worn(last_13HW, lit, weight), last_13HW)
    return share * (lit + _over_pixels(difference, last_13HW) - last_13HW)


def _worn(last_13HW: Tensor, exemplar_13HW: Tensor, weight: Tensor) -> Tensor:
    """How far a frame's blocks lack an exemplar's high frequencies, from 0 to 1, times a weight, `(1, 1, c, d)`."""
    wanted = _detail(exemplar_13HW)
    worn = ((0.9 * wanted - _detail(last_13HW)) / (0.5 * wanted + 1e-3)).clamp(0, 1)
    return worn * F.interpolate(weight, worn.shape[-2:], mode="area")


def _lit(exemplar_13HW: Tensor, last_13HW: Tensor, weight_11cd: Tensor, is_instructed: bool) -> Tensor:
    """An exemplar in the light of a frame, compared in blocks of this weight."""
    coarse = [_coarse(x, _WORN_PIXELS) for x in (last_13HW, exemplar_13HW)]
    gain = _gain(*coarse, weight_11cd, is_instructed)
    return ((exemplar_13HW + 1) * gain[:, :, None, None] - 1).clamp(-1, 1)


def _over_pixels(values_1Ccd: Tensor, frame_13HW: Tensor) -> Tensor:
    return F.interpolate(values_1Ccd, frame_13HW.shape[-2:], mode="bilinear")


def _gain(wanted_13cd: Tensor, coarse_N3cd: Tensor, share_11cd: Tensor, is_instructed: bool) -> Tensor:
    """Factors of each colour's light, `(N, 3)`, towards that of another picture."""
    limit, power = (_INSTRUCTED_LIMIT, 1.0) if is_instructed else (_GAIN_LIMIT, _GAIN_POWER)
    wanted_13, light_N3 = (((x + 1) * share_11cd).sum((2, 3)) for x in (wanted_13cd, coarse_N3cd))
    return (wanted_13 / light_N3.clamp_min(1e-3)).clamp(1 / limit, limit) ** power


def _detail(frame_1CHW: Tensor) -> Tensor:
    """High-frequency energy of each block, a mean absolute value, `(1, 1, c, d)`."""
    low = F.interpolate(F.avg_pool2d(frame_1CHW, _FINE_PIXELS), frame_1CHW.shape[-2:], mode="bilinear")
    return _coarse((frame_1CHW - low).abs().mean(1, keepdim=True), _WORN_PIXELS)


def _coarse(frame_1CHW: Tensor, pixels: int = _COMPARED_PIXELS) -> Tensor:
    """Low-passed by blocks of so many pixels a side."""
    return F.avg_pool2d(frame_1CHW, pixels)


def _values(picture_HWC: np.ndarray) -> Tensor:
    """A picture as `(1, 3, H, W)` in [-1, 1]."""
    return from_pixels(torch.from_numpy(picture_HWC)[None])
