"""Exemplars: a world walks towards recorded pictures that look like it, and turns to them."""

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gamegen.models.camera import accumulate, backward_flow, turn_vectors
from gamegen.models.exemplar_views import Ahead, Beside, complete, fill_beside
from gamegen.models.exemplars import ExemplarQuery, Exemplars
from gamegen.models.folding import from_pixels, to_pixels
from gamegen.models.layered_warp import Layers, split_layers
from gamegen.models.motion import FINE, PredictedMotion
from gamegen.models.text import TextStates
from gamegen.models.view_memory import KeyView, RecalledView, ViewMemory

HEIGHT, WIDTH = 48, 80
ROWS, COLUMNS = HEIGHT // FINE, WIDTH // FINE
FOCAL = torch.tensor([0.6882])
PROMPT = TextStates(torch.zeros(1, 4), torch.zeros(4))
QUERY = ExemplarQuery(prompt=PROMPT, is_instructed=False, is_changing=False, seed=1, number=3)
BEYOND = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
"""A place that is not where the world began."""
INNER = (..., slice(16, -8), slice(16, -16))


def picture(number: int) -> np.ndarray:
    """Textured ground and sky; eight pictures each have the same shades, but for a tint."""
    shades = np.array([[90, 150], [160, 60], [200, 190]])[number // 8].repeat([20, 28])[:, None, None]
    shades = shades + np.array([0, 4, -4])[None, None] * (number % 8)
    texture = np.random.default_rng(number).integers(-40, 40, (HEIGHT, WIDTH, 3))
    return (shades + texture).clip(0, 255).astype(np.uint8)


PICTURES = [picture(number) for number in range(24)]
NUMBERS = np.arange(len(PICTURES))


def frame(number: int) -> torch.Tensor:
    return from_pixels(torch.from_numpy(PICTURES[number])[None])


def worn(frame_13HW: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(frame_13HW, 9, 1, 4, count_include_pad=False)


def indifferent(vector: np.ndarray) -> np.ndarray:
    return np.zeros(len(PICTURES))


def walking(nodes: float, to_the_right: float = 0.0) -> PredictedMotion:
    """A chunk's motion by a walk of so many nodes, through scenery that is far away."""
    steps = torch.tensor([to_the_right, 0.0, nodes]).expand(1, 4, 3) / 4
    camera = accumulate(torch.zeros(1, 4, 3), steps, FOCAL)
    depth = torch.full((1, ROWS, COLUMNS), 0.05)
    flow = FINE * backward_flow(depth, camera)
    return PredictedMotion(
        flow, torch.zeros_like(flow[:, :, 0]), flow, torch.ones_like(depth), depth, *camera
    )


def turning(deg: float) -> PredictedMotion:
    """A chunk's motion by a turn to the right."""
    yaw = torch.full((1, 4), math.radians(deg / 4))
    camera = accumulate(turn_vectors(yaw, 0 * yaw, torch.zeros(1)), torch.zeros(1, 4, 3), FOCAL)
    depth = torch.full((1, ROWS, COLUMNS), 0.05)
    flow = FINE * backward_flow(depth, camera)
    return PredictedMotion(
        flow, torch.zeros_like(flow[:, :, 0]), flow, torch.ones_like(depth), depth, *camera
    )


def far(picture_13HW: torch.Tensor) -> torch.Tensor:
    return torch.full((1, *(side // FINE for side in picture_13HW.shape[-2:])), 0.01)


class Walk:
    """A world of one frame that is walked through, which wears."""

    def __init__(
        self,
        last: torch.Tensor,
        preference=indifferent,
        *,
        covered: np.ndarray | None = None,
        scenes: np.ndarray | None = None,
    ) -> None:
        mask = np.zeros((ROWS, COLUMNS), bool) if covered is None else covered
        scenes = np.full((len(PICTURES), 1), -1) if scenes is None else scenes
        self.exemplars = Exemplars(PICTURES, [mask] * len(PICTURES), scenes, preference)
        self.memory, self.last = ViewMemory(position=BEYOND), last

    def step(self, nodes: float = 0.6, *, held: bool = False, dark: bool = False, **changes) -> Ahead:
        motion = walking(nodes)
        layers = split_layers(motion)
        covered = torch.full_like(layers.covered, float(dark))
        covered[..., : COLUMNS * 3 // 8] += held
        layers = layers._replace(covered=covered)
        query = dataclasses.replace(QUERY, **changes)
        found = complete(self.exemplars, self.last, layers, motion, self.memory, query, far)
        self.memory = self.memory.next(
            to_pixels(self.last[0]), motion.moving[0], motion, layers, ahead=found.ahead
        )
        return found


def source(found: Ahead) -> int:
    """Number of the picture that was laid ahead."""
    return number_of(found.ahead)


def number_of(view: KeyView | None) -> int:
    assert view is not None
    shown = from_pixels(view.pixels()[None])
    return int(F.cosine_similarity((shown - worn(shown)).flatten()[None], details(), 1).argmax())


@cache
def details() -> torch.Tensor:
    """The high frequencies of each picture, `(N, 3HW)`."""
    return torch.stack([(x - worn(x)).flatten() for x in map(frame, NUMBERS)])


def taken(last: torch.Tensor) -> float:
    """Share of the difference from the picture ahead that a chunk takes over."""
    found = Walk(last).step()
    assert found.ahead is not None
    difference = from_pixels(found.ahead.pixels()[None]) - last
    return float(found.residual[INNER].abs().mean() / difference[INNER].abs().mean())


@pytest.mark.parametrize("number", [1, 9, 17])
def test_a_worn_world_becomes_like_a_picture_that_looks_like_it(number):
    walk = Walk(worn(frame(number)))
    found = walk.step()
    assert source(found) // 8 == number // 8 and source(found) != number
    completed = walk.last + found.residual
    lacking = [(x - worn(x))[INNER].abs().mean() for x in (walk.last, completed)]
    assert lacking[1] > 2.5 * lacking[0]


def test_a_world_at_rest_and_what_is_held_stay_as_they_are_and_a_sharp_frame_changes_slowly():
    still = Walk(worn(frame(2))).step(0.0)
    assert not still.residual.any() and still.ahead is None
    assert taken(frame(2)) < 0.75 < 0.8 < taken(worn(frame(2)))
    held = Walk(worn(frame(2))).step(held=True).residual
    assert not held[..., : WIDTH // 4].any() and held[..., WIDTH // 2 :].any()


def test_where_nothing_can_be_seen_nothing_seems_to_move():
    assert Walk(worn(frame(2))).step(dark=True).residual[..., : WIDTH // 4].any()


def test_a_world_stays_as_it_began_where_it_began():
    walk = Walk(worn(frame(2)))
    walk.memory = ViewMemory()
    found = [walk.step(number=number) for number in range(3)]
    assert [each.ahead is None for each in found] == [True, True, False]
    assert not found[1].residual.any() and found[2].residual.any()


def test_what_stands_in_front_of_a_pictures_scenery_is_not_shown():
    covered = np.zeros((ROWS, COLUMNS), bool)
    covered[:, COLUMNS // 2 :] = True
    residual = Walk(worn(frame(2)), covered=covered).step().residual
    assert residual[..., 8 : WIDTH // 2 - 8].any() and not residual[..., WIDTH // 2 + 8 :].any()


def test_what_is_near_is_walked_past_unless_that_is_all_there_is():
    for columns, is_kept in ((COLUMNS // 2, True), (COLUMNS, False)):
        motion, walk = walking(0.6), Walk(frame(2))
        motion.inverse_depth[..., :columns] = 1.0
        found = complete(walk.exemplars, walk.last, split_layers(motion), motion, walk.memory, QUERY, far)
        change = found.residual[:, :, 16:-16].abs()
        left, right = change[..., 16 : WIDTH // 2 - 16].mean(), change[..., WIDTH // 2 + 16 : -16].mean()
        assert right > 0.05 and (left < 0.2 * right) == is_kept


def test_a_picture_is_walked_towards_until_it_is_reached_and_then_the_next_follows():
    walk = Walk(worn(frame(2)))
    found = [walk.step(number=number) for number in range(24)]
    views = [each.ahead for each in found]
    lengths = np.unique([views.index(view) for view in views], return_counts=True)[1]
    # Three nodes, of .6 nodes each.
    assert list(lengths[:3]) == [5, 5, 5]
    assert source(found[0]) != source(found[5])
    # It moves along with the world.
    first, later = found[0].residual, found[4].residual
    assert (first - later)[INNER].abs().mean() > 0.3 * first[INNER].abs().mean()


def test_walking_to_a_side_the_next_picture_comes_sooner():
    motion = walking(0.0, 0.6)
    walk = Walk(worn(frame(2)))
    found = complete(walk.exemplars, walk.last, split_layers(motion), motion, walk.memory, QUERY, far)
    assert found.ahead is not None
    torch.testing.assert_close(found.ahead.position, BEYOND + torch.tensor([1.0, 0, 0]))


def test_the_prompt_may_rule_pictures_out_and_decides_between_others():
    def chosen(preference, **changes) -> int:
        return source(Walk(worn(frame(0)), preference).step(**changes))

    def only(allowed: list[int], others: float):
        return lambda vector: np.where(np.isin(NUMBERS, allowed), 0.0, others)

    unlike = list(range(8, 16))
    assert chosen(indifferent) < 8
    assert chosen(only(unlike, -4.0)) in unlike
    # The words of an instruction are not the prompt's: what is seen decides, but never what is ruled out.
    assert chosen(only(unlike, -4.0), is_instructed=True) < 8
    assert chosen(only(unlike, -np.inf), is_instructed=True) in unlike


def test_the_scene_stays_what_it_is():
    for odd in range(2):
        scenes = (odd == NUMBERS % 2)[:, None].astype(int)
        walk = Walk(worn(frame(8)), scenes=scenes)
        chosen = [source(walk.step(8.0, number=number)) for number in range(8)]
        assert len({scenes[number, 0] for number in chosen}) == 1 and len(set(chosen)) > 1


def test_the_choice_is_a_function_of_the_seed_and_the_time():
    def chosen(seed: int, number: int) -> int:
        return source(Walk(torch.zeros(1, 3, HEIGHT, WIDTH)).step(seed=seed, number=number))

    of_one_world = [chosen(1, number) for number in range(6)]
    assert of_one_world[:2] == [chosen(1, number) for number in range(2)]
    assert len(set(of_one_world)) > 1 < len({chosen(seed, 0) for seed in range(6)})


def test_an_instruction_may_darken_what_is_shown():
    dark = 0.3 * (worn(frame(1)) + 1) - 1
    walks = Walk(dark), Walk(dark)
    light = [
        (walk.last + walk.step(is_instructed=instructed).residual + 1).mean() / (dark + 1).mean()
        for walk, instructed in zip(walks, (True, False), strict=True)
    ]
    assert light[0] < 1.1 < 1.5 < light[1]


def test_frames_of_another_size_are_completed():
    last = F.interpolate(worn(frame(3)), (HEIGHT // 2, WIDTH // 2), mode="area")
    motion = walking(0.6)
    small = PredictedMotion(
        *(F.interpolate(x, (ROWS // 2, COLUMNS // 2)) for x in (motion.flow[0], motion.log_error)),
        *motion[2:],
    )
    small = small._replace(
        flow=small.flow[None],
        scenery=small.flow[None],
        moving=torch.ones(1, ROWS // 2, COLUMNS // 2),
        inverse_depth=torch.full((1, ROWS // 2, COLUMNS // 2), 0.05),
    )
    walk = Walk(last)
    found = complete(walk.exemplars, last, split_layers(small), small, walk.memory, QUERY, far)
    assert found.residual.shape == last.shape and found.residual.any()


class Turn:
    """A world that is turned around in."""

    def __init__(self) -> None:
        self.exemplars = Walk(frame(2)).exemplars
        self.memory, self.last = ViewMemory(), frame(2)

    def step(self, deg: float, recalled: RecalledView | None = None, **changes) -> tuple[Beside, Layers]:
        motion = turning(deg)
        layers = split_layers(motion)
        query = dataclasses.replace(QUERY, **changes)
        frames = layers.move(self.last)[0]
        found = fill_beside(self.exemplars, frames, layers, motion, self.memory, recalled, query, far)
        pixels = to_pixels(self.last[0])
        self.memory = self.memory.next(pixels, motion.moving[0], motion, layers, beside=found.beside)
        return found, layers


@pytest.mark.parametrize("side", [1, -1])
def test_what_comes_into_view_is_a_picture_that_goes_on_from_the_frame(side):
    turn = Turn()
    # Up to here the frame's own border is the best guess.
    first, _ = turn.step(side * 10.0)
    assert first.view is None and first.beside is not None
    found, layers = turn.step(side * 10.0)
    assert found.beside is first.beside
    assert found.view is not None and number_of(found.beside) // 8 == 0
    _, filled = found.view.lay_into(layers.move(turn.last)[0], layers)
    assert filled[-1].sum() > 0.9 * layers.unseen[0, -1].sum() > 0
    # It lies so far aside that it ends where the frame's middle is.
    assert not found.view.seen[0, :, COLUMNS // 2 - side * 2].any()


def test_it_goes_on_as_that_picture_until_the_next_is_needed():
    turn = Turn()
    views = [turn.step(10.0, number=number)[0].beside for number in range(12)]
    lengths = np.unique([views.index(view) for view in views], return_counts=True)[1]
    assert 4 <= lengths[0] <= 7 and number_of(views[0]) != number_of(views[-1])


def test_at_rest_and_where_a_kept_view_shows_it_and_while_an_order_is_new_nothing_is_filled_in():
    assert Turn().step(0.0)[0] == Beside(None, None)
    assert Turn().step(10.0, is_changing=True)[0].view is None
    everywhere = RecalledView(
        torch.zeros(4, 3, HEIGHT, WIDTH), torch.ones(4, ROWS, COLUMNS), has_detail=False
    )
    assert Turn().step(10.0, everywhere)[0].view is None
