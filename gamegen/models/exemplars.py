"""Exemplars: recorded pictures that a world may be completed by, and which of them suits it.

The idea is that of walking through a collection of photographs (Kaneva et al. 2010, "Infinite images", section 3): of
thousands, the one that looks most like a view goes on where that ends. What is done with it is in `exemplar_views.py`.

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

from gamegen.models.folding import from_pixels
from gamegen.models.text import TextStates
from gamegen.models.view_memory import KeyView

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
_KEPT_PROMPTS = 64


@dataclass(frozen=True, kw_only=True)
class ExemplarQuery:
    """The inputs of a choice of exemplar besides the frame: the world's prompt and seed, and the chunk's number.

    Where an instruction is in force (`is_instructed`), the prompt says less of what should be seen than the frame does,
    and its light is kept. While it is new (`is_changing`), little is taken over.
    """

    prompt: TextStates
    is_instructed: bool
    is_changing: bool
    seed: int
    number: int


class Choice(NamedTuple):
    """An exemplar `(1, 3, H, W)` in a frame's light, and where something is in front of its scenery, `(q, r)`."""

    picture: Tensor
    covered: Tensor


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

    def choose(
        self,
        last_13HW: Tensor,
        scenery_11qr: Tensor,
        before: KeyView | None,
        query: ExemplarQuery,
        aside: float = 0.0,
    ) -> Choice:
        """The exemplar that is most like the frame and the one before; `scenery` is 0 where something is in front.

        `aside` is the part of a picture's width by which the exemplar will lie to the right of the frame: then only
        what overlaps is compared with the frame.
        """
        coarse = F.interpolate(last_13HW, self._coarse_N3cd.shape[-2:], mode="area")
        share = F.interpolate(scenery_11qr, coarse.shape[-2:], mode="area")
        here, there = _overlapping(coarse.shape[-1], aside)
        gain_N3, cost_N = _compared(coarse[..., here], self._coarse_N3cd[..., there], share[..., here], query)
        is_same_N = cost_N < _SAME
        preference_N = self._preferred(query.prompt)
        if query.is_instructed:
            preference_N = preference_N.where(preference_N.isinf(), 0.0)
        elif before is not None:
            shown = F.interpolate(_values(before.pixels().numpy()), coarse.shape[-2:], mode="area")
            _, difference_N = _compared(shown, self._coarse_N3cd, share, query)
            is_same_N |= difference_N < _SAME
            cost_N = cost_N + _LIKE_BEFORE * (difference_N - cost_N)
        cost_N = cost_N - (_FIRST_PREFERENCE if before is None else _PREFERENCE) * preference_N
        here_A = self._scenes_NA[int(cost_N.argmin())]
        cost_N = cost_N + _OTHER_SCENE * (self._scenes_NA != here_A).sum(1)
        drawn = np.random.default_rng([query.seed, query.number]).random(len(self._pictures))
        is_left_out_N = is_same_N | torch.from_numpy(drawn >= _ELIGIBLE_SHARE)
        # Of a few pictures all may be left out; those of another perspective cost infinitely much.
        best = int((cost_N + 10 * is_left_out_N).argmin())
        picture = F.interpolate(_values(self._pictures[best]), last_13HW.shape[-2:], mode="bilinear")
        covered = torch.from_numpy(self._covered[best])[None, None].float()
        covered = F.interpolate(covered, scenery_11qr.shape[-2:], mode="nearest")[0, 0]
        return Choice(lit(picture, gain_N3[best]), covered)

    def _preferred(self, prompt: TextStates) -> Tensor:
        """Log likelihoods of the exemplars under a prompt, float32 `(N,)`, cached."""
        kept = self._preferences.get(id(prompt))
        if kept is None:
            found = torch.from_numpy(self._preference(prompt.pooled.float().cpu().numpy())).float()
            # With the prompt, so that no other gets its id while this is kept.
            self._preferences[id(prompt)] = kept = prompt, found
        return kept[1]


def light_gain(wanted_13cd: Tensor, coarse_N3cd: Tensor, share_11cd: Tensor, is_instructed: bool) -> Tensor:
    """Factors of each colour's light, `(N, 3)`, towards that of another picture; `share` weighs its places."""
    limit, power = (_INSTRUCTED_LIMIT, 1.0) if is_instructed else (_GAIN_LIMIT, _GAIN_POWER)
    wanted_13, light_N3 = (((x + 1) * share_11cd).sum((2, 3)) for x in (wanted_13cd, coarse_N3cd))
    return (wanted_13 / light_N3.clamp_min(1e-3)).clamp(1 / limit, limit) ** power


def lit(picture_C3HW: Tensor, gain_3: Tensor) -> Tensor:
    """Pictures in another light."""
    return ((picture_C3HW + 1) * gain_3[:, None, None] - 1).clamp(-1, 1)


def _compared(
    coarse_13cd: Tensor, exemplars_N3cd: Tensor, share_11cd: Tensor, query: ExemplarQuery
) -> tuple[Tensor, Tensor]:
    """Gains `(N, 3)` that give exemplars the light of a coarse picture, and their differences then, `(N,)`."""
    share = share_11cd / share_11cd.sum().clamp_min(1e-6)
    gain_N3 = light_gain(coarse_13cd, exemplars_N3cd, share, query.is_instructed)
    in_light = (exemplars_N3cd + 1) * gain_N3[:, :, None, None] - 1
    return gain_N3, ((in_light - coarse_13cd).abs().mean(1) * share[:, 0]).sum((1, 2))


def _overlapping(columns: int, aside: float) -> tuple[slice, slice]:
    """Columns of a picture and of one that lies to its side in which both show the same."""
    moved = round(abs(aside) * columns)
    left, right = slice(0, columns - moved), slice(moved, columns)
    return (right, left) if aside > 0 else (left, right)


def _coarse(frame_1CHW: Tensor) -> Tensor:
    return F.avg_pool2d(frame_1CHW, _COMPARED_PIXELS)


def _values(picture_HWC: np.ndarray) -> Tensor:
    """A picture as `(1, 3, H, W)` in [-1, 1]."""
    return from_pixels(torch.from_numpy(picture_HWC)[None])
