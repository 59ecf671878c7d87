"""A renderer that draws nothing, and goes through everything all the same."""

import numpy as np
import torch

from gamegen.clips.blank import BlankRenderer, blank_frames
from gamegen.models.sampling import SamplingConfig
from gamegen.models.text import TextStates
from gamegen.videos.order import Order

SAYS = TextStates(torch.zeros(1, 4), torch.zeros(4))
ORDER = Order("nano", "a desert", "", "first", 160, 96, 10, 24, 2, 1.0, 7)


def test_a_clip_is_black_and_has_all_its_frames():
    renderer = BlankRenderer(SamplingConfig())
    drawing = renderer.begin(ORDER, SAYS)
    while not drawing.is_done:
        renderer.step([drawing])
    assert drawing.step == drawing.num_steps > 0
    frames = np.concatenate([blank_frames(latent) for latent in drawing.latents])
    assert frames.shape == (12, 96, 160, 3) and not frames.any()


def test_it_goes_on_from_its_checkpoint():
    renderer = BlankRenderer(SamplingConfig())
    drawing = renderer.begin(ORDER, SAYS)
    renderer.step([drawing])
    resumed = renderer.resume(ORDER, SAYS, None, drawing.checkpoint())
    assert resumed.step == drawing.step and not resumed.is_done
