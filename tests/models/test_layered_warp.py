"""Layered warping of frames whose motion is made up."""

import torch

from gamegen.models.layered_warp import fill, split_layers
from gamegen.models.motion import FINE, PredictedMotion

HEIGHT, WIDTH = 32, 64
ROWS, COLUMNS = HEIGHT // FINE, WIDTH // FINE


def to_the_left(pixels: float, still: torch.Tensor) -> PredictedMotion:
    """Scenery that has moved to the left, by as much in all four frames, behind what is `still` `(q, r)`."""
    scenery = torch.zeros(1, 4, 2, ROWS, COLUMNS)
    scenery[:, :, 0] = pixels
    moving = 1 - still[None]
    return PredictedMotion(
        flow=scenery * moving[:, None, None],
        log_error=torch.zeros(1, 4, ROWS, COLUMNS),
        scenery=scenery,
        moving=moving,
        inverse_depth=torch.zeros(1, ROWS, COLUMNS),
        rotation=torch.eye(3).expand(1, 4, 3, 3),
        translation=torch.zeros(1, 4, 3),
        focal=torch.ones(1),
    )


def test_what_stands_still_leaves_no_copy_of_itself():
    still = torch.zeros(ROWS, COLUMNS)
    still[4:, 8:12] = 1
    last = torch.full((1, 3, HEIGHT, WIDTH), -0.5)
    last[:, :, 16:, 32:48] = 1.0
    layers = split_layers(to_the_left(12.0, still))
    moved = layers.move(last)
    assert (moved[..., 20:, 36:44] == 1).all()
    # Up to a place about it, there is scenery.
    assert (moved[..., :28] < -0.4).all() and (moved[..., 52:] < -0.4).all()


def test_what_was_covered_and_what_comes_in_is_unseen():
    still = torch.zeros(ROWS, COLUMNS)
    still[4:, 8:10] = 1
    layers = split_layers(to_the_left(8.0, still))
    unseen = layers.unseen[0, 3]
    assert unseen[:, -2:].all() and unseen[5:, 6:8].all()
    assert not unseen[:2, :-2].any() and not unseen[5:, :4].any()
    assert not unseen[5:, 8:10].any()


def test_scenery_alone_is_merely_warped():
    last = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moved = split_layers(to_the_left(8.0, torch.zeros(ROWS, COLUMNS))).move(last)
    torch.testing.assert_close(moved[0, 3, :, :, : WIDTH - 8], last[0, :, :, 8:], atol=1e-5, rtol=0)


def test_what_is_known_stays_and_the_rest_is_between():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 45, 80, generator=generator)
    known = (torch.rand(2, 1, 45, 80, generator=generator) > 0.4).float()
    known[:, :, 10:30, 20:60] = 0
    filled = fill(image * known + 9 * (1 - known), known)
    torch.testing.assert_close(filled * known, image * known)
    assert filled.min() >= 0 and filled.max() <= 1
