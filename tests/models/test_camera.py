"""Flow of a moving camera: equal to that of recorded depth and poses, exact where only turns matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gamegen.footage.depth import DEPTH_SCALE
from gamegen.footage.geometry import CameraTrack
from gamegen.models.camera import CameraMotion, accumulate, backward_flow, rotation_matrix, turn_vectors

ROWS, COLUMNS = 24, 40
HEADING_DEG = np.array([0.0, 0, 3, 6, 9, 12])
TILT_DEG = np.array([5.0, 5, 6, 7, 8, 9])
WALK = np.array([[0.0, 0, 0], [0, 0, 0], [0.1, 0, 0.2], [0.2, 0.05, 0.4], [0.3, 0.1, 0.6], [0.4, 0.1, 0.8]])
FOCAL = 0.5 / np.tan(np.radians(36))


def over_a_plain(position: np.ndarray) -> CameraTrack:
    """A camera 1.6 above level ground that turns right and looks down more and more, and goes its way."""
    y = ((np.arange(ROWS) + 0.5) / ROWS - 0.5)[:, None] / FOCAL
    tilt, height = np.radians(TILT_DEG)[:, None, None], 1.6 + position[:, 1, None, None]
    inverse_depth = np.maximum(y * np.cos(tilt) + np.sin(tilt), 0) / height
    return CameraTrack(
        inverse_depth=(DEPTH_SCALE * inverse_depth).repeat(COLUMNS, 2),
        position=position,
        heading_deg=HEADING_DEG,
        tilt_deg=TILT_DEG,
        is_first_person=np.ones(6, bool),
        vertical_fov_deg=72.0,
    )


def recorded_motion(track: CameraTrack) -> CameraMotion:
    rotation, translation = zip(*(track.motion(2 + k, 1) for k in range(4)), strict=True)
    return CameraMotion(
        torch.from_numpy(np.stack(rotation))[None].float(),
        torch.from_numpy(np.stack(translation))[None].float(),
        torch.tensor([FOCAL]).float(),
    )


@pytest.mark.parametrize("position", [WALK, np.zeros((6, 3))], ids=["walk", "turn"])
def test_flow_equals_that_of_the_recorded_depth_of_each_frame(position):
    track = over_a_plain(position)
    inverse_depth = torch.from_numpy(track.inverse_depth[1] / DEPTH_SCALE)[None].float()
    flow_px = 4 * backward_flow(inverse_depth, recorded_motion(track))[0].numpy()
    for k in range(4):
        true_px = track.flow(2 + k, 1)
        np.testing.assert_allclose(flow_px[k], true_px, atol=0.15)
        assert np.abs(flow_px[k] - true_px).mean() < 0.02


def test_steps_add_up_to_the_recorded_motion():
    track = over_a_plain(WALK)
    yaw, pitch = (
        torch.from_numpy(np.radians(np.diff(angles)[1:]))[None].float() for angles in (HEADING_DEG, TILT_DEG)
    )
    turns = turn_vectors(yaw, pitch, torch.tensor([np.radians(TILT_DEG[1])]).float())
    steps = np.stack([track.motion(2 + k, 1 + k)[1] for k in range(4)])
    found = accumulate(turns, torch.from_numpy(steps)[None].float(), torch.tensor([FOCAL]).float())
    expected = recorded_motion(track)
    torch.testing.assert_close(found.rotation, expected.rotation, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.translation, expected.translation, atol=1e-3, rtol=0)


def test_a_rotation_keeps_lengths():
    rotation = rotation_matrix(torch.tensor([[0.3, -0.2, 0.3]]))[0]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-4, rtol=0)
