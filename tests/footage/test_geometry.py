"""True motion from depth and pose: a wall that one walks along, a turn, a mirror."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen.footage.depth import DEPTH_SCALE
from gamegen.footage.geometry import CameraTrack

ROWS, COLUMNS, HEIGHT = 12, 20, 48
FOCAL = HEIGHT / 2 / np.tan(np.radians(30))


def track(
    positions: list[tuple[float, float, float]], headings: list[float], depth: float = 5.0
) -> CameraTrack:
    """A camera of 60 degrees in front of a wall, where all is `depth` away."""
    num_frames = len(positions)
    return CameraTrack(
        inverse_depth=np.full((num_frames, ROWS, COLUMNS), round(DEPTH_SCALE / depth), np.uint8),
        position=np.array(positions),
        heading_deg=np.array(headings),
        tilt_deg=np.zeros(num_frames),
        is_first_person=np.ones(num_frames, bool),
        vertical_fov_deg=60.0,
    )


def test_a_step_to_the_right_moves_a_wall_to_the_left():
    depth = DEPTH_SCALE / round(DEPTH_SCALE / 5)
    flow = track([(0, 0, 0), (0.5, 0, 0)], [0, 0]).flow(1, 0)
    np.testing.assert_allclose(flow[0], 0.5 / depth * FOCAL, rtol=1e-5)
    np.testing.assert_allclose(flow[1], 0, atol=1e-5)


def test_a_step_forward_moves_everything_away_from_the_middle():
    flow = track([(0, 0, 0), (0, 0, 1)], [0, 0]).flow(1, 0)
    # Back to where it was: nearer to the middle.
    assert (flow[0, :, : COLUMNS // 2] > 0).all() and (flow[0, :, COLUMNS // 2 :] < 0).all()
    assert (flow[1, : ROWS // 2] > 0).all() and (flow[1, ROWS // 2 :] < 0).all()


def test_a_turn_is_the_same_at_every_distance_and_goes_by_the_tangent():
    near, far = (track([(0, 0, 0)] * 2, [90, 95], depth).flow(1, 0) for depth in (1.0, 60.0))
    np.testing.assert_allclose(near, far, atol=1e-4)
    middle = near[0, :, COLUMNS // 2 - 1 : COLUMNS // 2 + 1].mean()
    assert middle == pytest.approx(FOCAL * np.tan(np.radians(5)), rel=0.02)


def test_heading_says_which_way_is_forward():
    """Heading 90 degrees looks east: a step east goes forward."""
    flow = track([(0, 0, 0), (1, 0, 0)], [90, 90]).flow(1, 0)
    assert (flow[0, :, : COLUMNS // 2] > 0).all() and (flow[0, :, COLUMNS // 2 :] < 0).all()


def test_the_flow_of_a_mirrored_track_is_the_mirrored_flow():
    one = track([(0, 0, 0), (0.5, 0.1, 0.3)], [20, 23])
    mirrored = one.mirrored().flow(1, 0)
    np.testing.assert_allclose(mirrored[0], -one.flow(1, 0)[0, :, ::-1], atol=1e-4)
    np.testing.assert_allclose(mirrored[1], one.flow(1, 0)[1, :, ::-1], atol=1e-4)


def test_without_depth_there_is_no_track():
    assert CameraTrack.from_row({"inverse_depth": None, "vertical_fov_deg": 72.0}) is None
    assert CameraTrack.from_row({}) is None
