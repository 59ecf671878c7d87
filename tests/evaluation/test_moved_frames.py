"""The last frame moved: the true flow explains a pan, and a motion network has its own row."""

import dataclasses

import numpy as np

from gamegen.evaluation.moved_frames import moved_frames
from gamegen.evaluation.video_quality import psnr_db
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import MotionConfig
from tests.footage_samples import panning_frames


def test_the_flow_of_the_window_itself_explains_a_pan():
    window, model = panning_frames(12), Model(ModelConfig.tiny()).eval()
    found = moved_frames(model, window, np.zeros((12, 9)))
    assert set(found) == {"flow"}
    copied = np.repeat(window[-5:-4], 4, 0)
    assert psnr_db(found["flow"], window[-4:]) > psnr_db(copied, window[-4:]) + 5


def test_an_untrained_motion_network_moves_nothing_without_operations():
    window = panning_frames(12)
    model = Model(dataclasses.replace(ModelConfig.tiny(), motion=MotionConfig.tiny())).eval()
    found = moved_frames(model, window, np.zeros((2, 9)))
    np.testing.assert_array_equal(found["warped"], np.repeat(window[-5:-4], 4, 0))
