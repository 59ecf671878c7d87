"""Exemplars: worn frames get their detail back from the recorded picture that looks like them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gamegen.models.exemplars import Exemplars
from gamegen.models.folding import from_pixels
from gamegen.models.text import TextStates

HEIGHT, WIDTH = 48, 80
PROMPT = TextStates(torch.zeros(1, 4), torch.zeros(4))
INNER = (..., slice(8, -8), slice(8, -8))


def picture(number: int) -> np.ndarray:
    """Textured ground and sky; two pictures each have the same shades."""
    shades = np.array([[90, 150], [160, 80], [120, 40]])[number // 2].repeat([20, 28])[:, None, None]
    texture = np.random.default_rng(number).integers(-40, 40, (HEIGHT, WIDTH, 3))
    return (shades + texture).astype(np.uint8)


PICTURES = [picture(number) for number in range(6)]


def frame(number: int) -> torch.Tensor:
    return from_pixels(torch.from_numpy(PICTURES[number])[None])


def worn(number: int) -> torch.Tensor:
    return F.avg_pool2d(frame(number), 9, 1, 4, count_include_pad=False)


def indifferent(vector: np.ndarray) -> np.ndarray:
    return np.zeros(len(PICTURES))


def completed(
    last: torch.Tensor, preference=indifferent, *, nodes: float = 0.6, covered: float = 0.0, **changes
) -> torch.Tensor:
    asked = {"prompt": PROMPT, "is_instructed": False, "seed": 1, "number": 3, **changes}
    mask = torch.full((1, 1, 12, 20), covered)
    return last + Exemplars(PICTURES, preference).detail(last, mask, moved_nodes=nodes, **asked)


def detail_of(change: torch.Tensor) -> int:
    """Number of the picture that the detail is of."""
    details = [frame(number) - worn(number) for number in range(len(PICTURES))]
    return int(torch.stack([(change * detail)[INNER].sum() for detail in details]).argmax())


@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_a_worn_frame_gets_detail_of_a_picture_that_looks_like_it(number):
    found = completed(worn(number))
    source = detail_of(found - worn(number))
    assert source // 2 == number // 2
    lacking = [
        (x - worn(number) - (frame(source) - worn(source)))[INNER].abs().mean() for x in (worn(number), found)
    ]
    assert lacking[1] < 0.4 * lacking[0]


def test_a_world_at_rest_and_a_sharp_frame_and_what_is_held_stay_as_they_are():
    assert torch.equal(completed(worn(2), nodes=0.0), worn(2))
    torch.testing.assert_close(completed(frame(2)), frame(2))
    torch.testing.assert_close(completed(worn(2), covered=1.0), worn(2))


def test_the_prompt_may_rule_pictures_out_and_decides_between_others():
    def chosen(preference, **changes) -> int:
        return detail_of(completed(worn(0), preference, **changes) - worn(0))

    def only(number: int, others: float):
        return lambda vector: np.where(np.arange(len(PICTURES)) == number, 0.0, others)

    one = chosen(indifferent)
    other = 1 - one
    assert chosen(only(other, -4.0)) == chosen(only(other, -np.inf)) == other
    # The words of an instruction are not the prompt's: what is seen decides, but never what is ruled out.
    assert chosen(only(other, -4.0), is_instructed=True) == one
    assert chosen(only(other, -np.inf), is_instructed=True) == other


def test_the_choice_is_a_function_of_the_seed_and_the_time():
    grey = torch.zeros(1, 3, HEIGHT, WIDTH)
    found = [
        completed(grey, seed=seed, number=number)
        for seed, number in ((1, 0), (1, 15), (1, 0), (2, 0), (1, 16), (1, 32), (1, 48))
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert any(not torch.equal(found[0], other) for other in found[3:])


def test_frames_of_another_size_are_completed():
    last = F.interpolate(worn(3), (HEIGHT // 2, WIDTH // 2), mode="area")
    found = completed(last)
    assert found.shape == last.shape and not torch.equal(found, last)
