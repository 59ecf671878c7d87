"""Exemplars: recorded pictures that give back the detail that a world loses where it moves.

A frame that is moved chunk after chunk is magnified and worn, and where something should be new a small network draws
the mean of what could be. The recorded picture that looks most like the frame, and shows what the prompt asks for, has
detail for such places, and says how they might go on (texture synthesis by example: Efros and Leung 1999; walking
through a collection of photographs: Kaneva et al. 2010, "Infinite images").

Nothing is kept of it: the choice is a function of the frame, the prompt, the seed and the chunk's number.

Shape suffixes as in `motion.py`; N exemplars, c and d rows and columns of the coarse pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from cachetools import LRUCache
from torch import Tensor

from gamegen.models.folding import from_pixels
from gamegen.models.text import TextStates

_COARSE_PIXELS = 8
"""Block size of the low-pass filter."""
_GAIN_LIMIT, _GAIN_POWER = 1.3, 0.8
"""Light of an exemplar may be changed by this factor, and how much of the way it is."""
_PREFERENCE = 0.06
"""Mean absolute difference, in [-1, 1], that a nat of likelihood under the prompt makes up for."""
_CHUNKS_EACH, _VARIETY = 16, 0.05
"""Chunks after which another exemplar may be chosen, and differences between exemplars that do not matter then."""
_ALIKE = 0.1
"""Difference of low-passed pictures up to which detail is taken over."""
_PULL = 0.3
"""Share of the difference of low-passed pictures that is taken over with the detail, where they differ by 0; by 1 and
more it is none."""
_FINE_PIXELS = 4
"""Block size of the low-pass filter whose residual is the detail."""
_COMPARED_BLOCKS = 2
"""Blocks a side that are averaged for the choice."""
_AT_REST_NODES, _WALKING_NODES = 0.05, 0.4
"""Camera translation of a chunk up to which the residual is zero, and from which on it is whole: where one only looks
around, little is worn, and what one turns back to should be as it was."""
_KEPT_PROMPTS = 64


class Exemplars:
    """Recorded pictures of the frames' size, uint8 `(H, W, 3)`, and which of them a prompt asks for.

    `preference` gives their log likelihoods under a text's pooled encoding `(D,)`, at most 0, -inf for those that may
    not be chosen.
    """

    def __init__(
        self, pictures: Sequence[np.ndarray], preference: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._pictures = pictures
        self._preference = preference
        coarse = [_coarse(_values(picture)) for picture in pictures]
        self._coarse_N3cd = F.avg_pool2d(torch.cat(coarse), _COMPARED_BLOCKS)
        self._preferences: LRUCache[int, tuple[TextStates, Tensor]] = LRUCache(_KEPT_PROMPTS)

    def detail(
        self,
        last_13HW: Tensor,
        covered_11qr: Tensor,
        *,
        moved_nodes: float,
        prompt: TextStates,
        is_instructed: bool,
        seed: int,
        number: int,
    ) -> Tensor:
        """Residual to add to the last frame, `(1, 3, H, W)` in [-1, 1], before it is warped into the chunk `number`.

        `covered` is 1 where something stands in front of the scenery, `moved_nodes` is the camera's translation in the
        chunk; of a camera at rest the residual is zero. Where an instruction is in force, the prompt says less of what
        should be seen than the frame does, and only the frame chooses.
        """
        amount = (moved_nodes - _AT_REST_NODES) / (_WALKING_NODES - _AT_REST_NODES)
        if amount <= 0:
            return torch.zeros_like(last_13HW)
        last = last_13HW.float().cpu()
        coarse = F.interpolate(last, self._coarse_N3cd.shape[-2:], mode="area")
        scenery = 1 - F.interpolate(covered_11qr.float().cpu(), coarse.shape[-2:], mode="area")
        preference_N = self._preferred(prompt)
        if is_instructed:
            preference_N = preference_N.where(preference_N.isinf(), 0.0)
        exemplar = self._choice(coarse, scenery, preference_N, seed, number)
        exemplar = F.interpolate(exemplar, last.shape[-2:], mode="bilinear").clamp(-1, 1)
        completed = last + min(amount, 1.0) * _change(last, exemplar, scenery)
        return (completed.clamp(-1, 1) - last).to(last_13HW)

    def _preferred(self, prompt: TextStates) -> Tensor:
        """Log likelihoods of the exemplars under a prompt, float32 `(N,)`, cached."""
        kept = self._preferences.get(id(prompt))
        if kept is None:
            found = torch.from_numpy(self._preference(prompt.pooled.float().cpu().numpy())).float()
            # With the prompt, so that no other gets its id while this is kept.
            self._preferences[id(prompt)] = kept = prompt, found
        return kept[1]

    def _choice(
        self, coarse_13cd: Tensor, scenery_11cd: Tensor, preference_N: Tensor, seed: int, number: int
    ) -> Tensor:
        """The exemplar that is most like the frame, `(1, 3, H, W)`, in its light."""
        share = scenery_11cd / scenery_11cd.sum().clamp_min(1e-6)
        light_N3 = ((self._coarse_N3cd + 1) * share).sum((2, 3))
        gain_N3 = ((coarse_13cd + 1) * share).sum((2, 3)) / light_N3.clamp_min(1e-3)
        gain_N3 = gain_N3.clamp(1 / _GAIN_LIMIT, _GAIN_LIMIT) ** _GAIN_POWER
        lit = (self._coarse_N3cd + 1) * gain_N3[:, :, None, None] - 1
        difference_N = ((lit - coarse_13cd).abs().mean(1) * share[:, 0]).sum((1, 2))
        variety_N = np.random.default_rng([seed, number // _CHUNKS_EACH]).random(len(self._pictures))
        cost_N = difference_N + _VARIETY * torch.from_numpy(variety_N).float() - _PREFERENCE * preference_N
        best = int(cost_N.argmin())
        return (_values(self._pictures[best]) + 1) * gain_N3[best, :, None, None] - 1


def _change(last_13HW: Tensor, exemplar_13HW: Tensor, scenery_11cd: Tensor) -> Tensor:
    """Residual from an exemplar: its high frequencies where both are alike, and a share of its low frequencies.

    Both count where the frame has less high-frequency energy than the exemplar.
    """
    coarse_change = _coarse(last_13HW) - _coarse(exemplar_13HW)
    difference = coarse_change.abs().mean(1, keepdim=True)
    wanted = _detail(exemplar_13HW)
    worn = ((0.9 * wanted - _detail(last_13HW)) / (0.5 * wanted + 1e-3)).clamp(0, 1)
    worn = worn * F.interpolate(scenery_11cd, worn.shape[-2:], mode="bilinear")
    alike = worn * (difference < _ALIKE)
    pull = worn * (1 - difference).clamp_min(0) * _PULL
    over_pixels = torch.cat([alike, pull, coarse_change], 1)
    over_pixels = F.interpolate(over_pixels, last_13HW.shape[-2:], mode="bilinear")
    alike, pull, change = over_pixels.split([1, 1, 3], 1)
    return alike * (exemplar_13HW + change - last_13HW) - pull * change


def _detail(frame_1CHW: Tensor) -> Tensor:
    """High-frequency energy of each block, a mean absolute value, `(1, 1, c, d)`."""
    low = F.interpolate(F.avg_pool2d(frame_1CHW, _FINE_PIXELS), frame_1CHW.shape[-2:], mode="bilinear")
    return _coarse((frame_1CHW - low).abs().mean(1, keepdim=True))


def _coarse(frame_1CHW: Tensor) -> Tensor:
    return F.avg_pool2d(frame_1CHW, _COARSE_PIXELS)


def _values(picture_HWC: np.ndarray) -> Tensor:
    """A picture as `(1, 3, H, W)` in [-1, 1]."""
    return from_pixels(torch.from_numpy(picture_HWC)[None])
