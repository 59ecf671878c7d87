"""Edges are where the picture changes; motion has the colour of its direction."""

from typing import get_args

import cv2
import numpy as np
import pytest
import torch

from gamegen.models.vae import from_pixels
from gamegen.session_log import PromptKind, VideoPrompt
from gamegen.uploaded_video import read_frames
from gamegen.video_prompts import KINDS, POSE, canny, encode_video_prompt, motion, read_video_prompt
from tests.footage_samples import panning_frames
from tests.test_first_frames import video
from tests.test_world import random_model


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


@pytest.mark.parametrize("kind", ["canny", "motion", "pose"])
def test_a_video_prompt_is_encoded_as_training_encodes_it(kind):
    model = random_model()
    frames = panning_frames(11)[:, :32, :32]
    latents = encode_video_prompt(model, frames, kind)
    assert latents.shape == (2, 4, 4, 4) and latents.dtype == torch.float32
    pictures = KINDS[kind](frames) if kind in KINDS else frames
    raw = model.vae.encode(from_pixels(torch.from_numpy(pictures[:8]))[None])[0]
    torch.testing.assert_close(latents, model.normalise(raw), rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("frames", "kind", "message"),
    [
        (np.zeros((8, 32, 32, 3), np.uint8), "depth", "'depth': use one of canny, motion, pose"),
        (np.zeros((8, 32, 32, 3)), "canny", "expected uint8 frames"),
        (np.zeros((8, 32, 32), np.uint8), "canny", "expected uint8 frames"),
        (np.zeros((8, 32, 48, 3), np.uint8), "canny", "is 48x32: resize it to 32x32"),
        (np.zeros((3, 32, 32, 3), np.uint8), "canny", "has 3 frames: it takes 4 to 240"),
        (np.zeros((241, 32, 32, 3), np.uint8), "motion", r"has 241 frames: it takes 4 to 240 \(10 seconds\)"),
    ],
)
def test_what_cannot_be_a_video_prompt_is_refused(frames, kind, message):
    with pytest.raises(ValueError, match=message):
        encode_video_prompt(random_model(), frames, kind)


def test_kinds_are_those_of_the_log():
    assert get_args(PromptKind) == (*KINDS, POSE)


@pytest.mark.parametrize("kind", get_args(PromptKind))
def test_a_file_is_read_as_its_frames_are(kind):
    model, file = random_model(), video(18)
    latents = read_video_prompt(model, VideoPrompt(kind, file))
    frames = read_frames(file, (32, 32), 18)
    torch.testing.assert_close(latents, encode_video_prompt(model, frames, kind), rtol=0, atol=0)
    assert len(latents) == 4
    assert len(read_video_prompt(model, VideoPrompt(kind, video(240)))) == 60
    for number, says in ((3, "3 frames"), (242, "10.1 s long and the limit is 10")):
        with pytest.raises(ValueError, match=says):
            read_video_prompt(model, VideoPrompt(kind, video(number)))
