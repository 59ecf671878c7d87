"""Video prompts are encoded as training encodes them."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from gamegen.device import autocast
from gamegen.engine.video_prompts import encode_video_prompt, read_video_prompt
from gamegen.media.prompt_pictures import KINDS
from gamegen.media.untrusted import read_frames
from gamegen.models.folding import from_pixels
from gamegen.sessions.log import PromptKind, VideoPrompt
from tests.engine.test_world import random_model
from tests.footage_samples import panning_frames
from tests.media.test_first_frames import video


@pytest.mark.parametrize("kind", ["canny", "motion", "pose"])
def test_a_video_prompt_is_encoded_as_training_encodes_it(kind):
    model = random_model()
    frames = panning_frames(11)[:, :32, :32]
    latents = encode_video_prompt(model, frames, kind)
    assert latents.shape == (2, 4, 4, 4) and latents.dtype == torch.float32
    pictures = KINDS[kind](frames) if kind in KINDS else frames
    with autocast(model.device):
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
