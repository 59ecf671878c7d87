"""Edges are where the picture changes; motion has the colour of its direction."""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np

from gamegen.media.prompt_pictures import KINDS, POSE, canny, motion
from gamegen.sessions.log import PromptKind
from tests.footage_samples import panning_frames


def test_edges_are_where_the_picture_changes():
    frames = np.zeros((2, 32, 48, 3), np.uint8)
    frames[:, :, 24:] = 255
    edges = canny(frames)
    assert edges.shape == frames.shape and edges.dtype == np.uint8
    columns = set(np.argwhere(edges[1, 8:24].any((0, 2))).ravel())
    assert columns and columns <= {22, 23, 24, 25}


def test_motion_has_the_hue_of_its_direction_and_none_at_rest():
    frames = panning_frames(6)
    moving = motion(frames)
    assert moving.shape == frames.shape and not moving[0].any()
    # The camera pans right, so the picture moves left: 180 degrees, which OpenCV writes as a hue of 90.
    hue = cv2.cvtColor(moving[3], cv2.COLOR_RGB2HSV)[16:56, 32:96]
    assert abs(float(np.median(hue[..., 0])) - 90) < 5 and np.median(hue[..., 2]) > 30
    assert motion(np.repeat(frames[:1], 3, 0)).max() < 10


def test_kinds_are_those_of_the_log():
    assert get_args(PromptKind) == (*KINDS, POSE)
