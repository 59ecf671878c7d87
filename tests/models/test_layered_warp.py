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


def test_scenery_near_what_stands_still_is_moved_as_it_is():
    """Its places are covered in part; what is filled in there is for what nothing is known of."""
    still = torch.zeros(ROWS, COLUMNS)
    still[4:, 8:10] = 1
    last = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.04
    layers = split_layers(to_the_left(8.0, still))
    assert layers.covered[0, 0, 3:, 7:11].all()
    moved = layers.move(last)
    torch.testing.assert_close(moved[0, 3, :, :, : WIDTH - 8], last[0, :, :, 8:], atol=1e-5, rtol=0)


def test_of_what_stands_still_pixels_like_the_scenery_stay_if_they_mostly_were_in_front():
    still = torch.zeros(ROWS, COLUMNS)
    still[4:, 8:12] = 1
    # It is as bright as the scenery, which gets brighter to the right.
    last = torch.linspace(-1, 1, WIDTH).expand(1, 3, HEIGHT, WIDTH).clone()
    tool = (slice(None), slice(None), slice(20, None), slice(36, 44))
    expected = torch.full((1, 1, HEIGHT, WIDTH), 0.5)
    expected[tool] = 1.0
    for known, stays in ((None, False), (expected, True)):
        moved = split_layers(to_the_left(8.0, still), known).move(last)[0]
        assert torch.allclose(moved[3][:, 20:, 36:44], last[0][:, 20:, 36:44], atol=1e-4) == stays


def test_what_is_magnified_comes_from_a_smaller_area():
    motion = to_the_left(8.0, torch.zeros(ROWS, COLUMNS))
    torch.testing.assert_close(split_layers(motion).source_area(), torch.ones(1, ROWS, COLUMNS))
    y, x = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    # To the right twice as wide as it was, and turned a little.
    grown = torch.stack([-0.5 * x + 0.2 * y, 0.0 * x])[None, None].expand(1, 4, 2, ROWS, COLUMNS) * FINE
    area = split_layers(motion._replace(flow=grown, scenery=grown)).source_area()
    torch.testing.assert_close(area[:, 1:-1, 1:-1], torch.full((1, ROWS - 2, COLUMNS - 2), 0.5))


def test_what_is_known_stays_and_the_rest_is_between():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 45, 80, generator=generator)
    known = (torch.rand(2, 1, 45, 80, generator=generator) > 0.4).float()
    known[:, :, 10:30, 20:60] = 0
    filled = fill(image * known + 9 * (1 - known), known)
    torch.testing.assert_close(filled * known, image * known)
    assert filled.min() >= 0 and filled.max() <= 1
