"""Frames between those of a video, for a file of another rate: both neighbours moved along the optical flow.

The flow is DIS (Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search"), in both directions; where one
neighbour does not show what the other does, the other one counts. Between two scenes there is nothing to interpolate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

INTERPOLATOR = "dis-optical-flow"
"""Name of the interpolation method."""
_ASTRAY_PX, _ASTRAY_SHARE, _CUT_ERROR = 2.0, 0.5, 10.0
"""At a cut the flow there and back leads this far astray for this share of the pixels, and when one frame is moved onto
the other this mean difference of brightness, of 255, is left."""


class FrameInterpolator:
    """Turns frames at `source_fps` into frames at `fps`, as they come.

    Frame k of the result shows the moment k / `fps`; what is exactly at a source frame is that frame.
    """

    def __init__(self, source_fps: int, fps: int) -> None:
        self._step = Fraction(source_fps, fps)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: np.ndarray | None = None
        self._num_taken = 0
        self._num_made = 0

    def push(self, frame: np.ndarray) -> Iterator[np.ndarray]:
        """Takes the next frame, uint8 `(H, W, 3)`; yields those up to it that are not made yet."""
        before, self._last = self._last, frame
        self._num_taken += 1
        pair = None if before is None else _Pair(before, frame, self._flow)
        while (moment := self._num_made * self._step) <= self._num_taken - 1:
            share = float(moment - math.floor(moment))
            if share == 0:
                yield frame if moment == self._num_taken - 1 or before is None else before
            else:
                assert pair is not None
                yield pair.between(share)
            self._num_made += 1

    def rest(self, num_frames: int) -> Iterator[np.ndarray]:
        """Repeats the last frame until there are `num_frames`."""
        assert self._last is not None or num_frames == 0
        while self._num_made < num_frames:
            self._num_made += 1
            assert self._last is not None
            yield self._last


class _Pair:
    """Two frames that follow each other."""

    def __init__(self, before: np.ndarray, after: np.ndarray, dis: cv2.DISOpticalFlow) -> None:
        self._before, self._after, self._dis = before, after, dis
        self._flows: tuple[np.ndarray, np.ndarray] | None = None
        self._is_cut: bool | None = None

    def between(self, share: float) -> np.ndarray:
        """The frame at this share of the time between the two; of two scenes the nearer one."""
        if self._flows is None:
            grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (self._before, self._after)]
            there, back = (self._dis.calc(*pair, None) for pair in (grey, grey[::-1]))  # type: ignore[call-overload]
            error = np.abs(_moved(grey[1], there).astype(np.float32) - grey[0]).mean()
            astray = (_disagreement(there, back) > _ASTRAY_PX).mean()
            self._flows, self._is_cut = (there, back), bool(error > _CUT_ERROR and astray > _ASTRAY_SHARE)
        if self._is_cut:
            return self._before if share < 0.5 else self._after
        there, back = self._flows
        # The flow at the moment between, from both (Jiang et al. 2018, "Super SloMo", equation 4).
        from_before = -(1 - share) * share * there + share * share * back
        from_after = (1 - share) ** 2 * there - share * (1 - share) * back
        first, second = _moved(self._before, from_before), _moved(self._after, from_after)
        trust_first = (1 - share) * _trust(there, back, from_before)
        trust_second = share * _trust(back, there, from_after)
        weight = (trust_first / (trust_first + trust_second))[..., None]
        return np.clip(weight * first + (1 - weight) * second, 0, 255).round().astype(np.uint8)


def _trust(there: np.ndarray, back: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How far the flow there and the flow back agree, as each pixel of the frame between sees it, above 0 to 1."""
    return 0.01 + 0.99 / (1 + _moved(_disagreement(there, back), at) ** 2)


def _disagreement(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """How many pixels from where it began each one is after the flow there and back, float32 `(H, W)`."""
    return np.linalg.norm(there + _moved(back, there), axis=-1).astype(np.float32)


def _moved(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    height, width = flow.shape[:2]
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    interpolation = cv2.INTER_CUBIC if picture.dtype == np.uint8 else cv2.INTER_LINEAR
    return cv2.remap(
        picture, across + flow[..., 0], down + flow[..., 1], interpolation, borderMode=cv2.BORDER_REPLICATE
    )
