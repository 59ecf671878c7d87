"""The renderer of black clips takes them through every step."""

import numpy as np
import torch

from gamegen.generation.blank import BlankRenderer
from gamegen.models.sampling import SamplingConfig
from gamegen.models.text import TextStates
from tests.generation.specs import a_clip

SAYS = TextStates(torch.zeros(1, 4), torch.zeros(4))
SPEC = a_clip(width=160, height=96, num_frames=10)


def test_a_clip_is_black_and_has_all_its_frames():
    renderer = BlankRenderer(SamplingConfig())
    drawing = renderer.begin(SPEC, SAYS)
    while not drawing.is_done:
        renderer.step([drawing])
    assert drawing.step == drawing.num_steps > 0
    frames = np.concatenate([*renderer.decode(drawing)])
    assert frames.shape == (12, 96, 160, 3) and not frames.any()


def test_it_goes_on_from_its_checkpoint():
    renderer = BlankRenderer(SamplingConfig())
    drawing = renderer.begin(SPEC, SAYS)
    renderer.step([drawing])
    resumed = renderer.resume(SPEC, SAYS, None, drawing.checkpoint().data)
    assert resumed.step == drawing.step and not resumed.is_done
