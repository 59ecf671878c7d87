"""The memory of views, in a world of distant scenery whose every view is known."""

import dataclasses
import math

import pytest
import simplejpeg
import torch
from safetensors.torch import load, save

from gamegen.engine.memory_bytes import memory_from_bytes, memory_to_bytes
from gamegen.models import view_memory
from gamegen.models.camera import accumulate, rays, turn_vectors
from gamegen.models.folding import to_pixels
from gamegen.models.layered_warp import split_layers
from gamegen.models.motion import FINE, PredictedMotion
from gamegen.models.view_memory import ViewMemory

HEIGHT, WIDTH = 48, 80
ROWS, COLUMNS = HEIGHT // FINE, WIDTH // FINE
FOCAL = torch.tensor([0.6882])
TURN_DEG = 1.2


def view(yaw_deg: float, place: float = 0.0) -> torch.Tensor:
    """What a camera sees that has turned to the right, `(3, H, W)`."""
    x, y, z = rays(HEIGHT, WIDTH, FOCAL)[0, 0]
    heading = torch.atan2(x, z) + math.radians(yaw_deg)
    height = y / torch.hypot(x, z)
    waves = [torch.sin(5 * heading + k + place) * torch.cos(4 * height + k * place) for k in range(3)]
    return 0.6 * torch.stack(waves)


def turning(yaw_deg: float) -> PredictedMotion:
    """A chunk's motion by a turn of so much a frame, with nothing in front of the camera."""
    yaw = torch.full((1, 4), math.radians(yaw_deg))
    camera = accumulate(turn_vectors(yaw, 0 * yaw, torch.zeros(1)), torch.zeros(1, 4, 3), FOCAL)
    depth = torch.zeros(1, ROWS, COLUMNS)
    flow = FINE * view_memory.backward_flow(depth, camera)
    zero = torch.zeros(1, 4, ROWS, COLUMNS)
    return PredictedMotion(flow, zero, flow, torch.ones(1, ROWS, COLUMNS), depth, *camera)


def jpeg(frame: torch.Tensor) -> bytes:
    return simplejpeg.encode_jpeg(to_pixels(frame).contiguous().numpy(), quality=98, colorsubsampling="444")


def turned(memory: ViewMemory, yaw_deg: float, by_deg: float) -> tuple[ViewMemory, float]:
    """The memory after a chunk of turning from `yaw_deg` on, by `by_deg` a frame; and the yaw then."""
    motion = turning(by_deg)
    pixels = to_pixels(view(yaw_deg))
    return memory.next(pixels, motion.moving[0], motion, split_layers(motion)), yaw_deg + 4 * by_deg


def looked_away(chunks: int = 20) -> tuple[ViewMemory, float]:
    """A memory after a turn to the right."""
    memory, yaw = ViewMemory(), 0.0
    for _ in range(chunks):
        memory, yaw = turned(memory, yaw, TURN_DEG)
    return memory, yaw


def recalled(memory: ViewMemory, yaw_deg: float, by_deg: float, last: torch.Tensor | None = None):
    motion = turning(by_deg)
    layers = split_layers(motion)
    frames = layers.move((view(yaw_deg) if last is None else last)[None])
    return frames[0], layers, memory.recall(frames[0], layers, motion), motion


def test_what_one_turns_back_to_is_there_again():
    memory, yaw = looked_away()
    while yaw > 30:
        frames, layers, found, _ = recalled(memory, yaw, -TURN_DEG)
        assert found is not None
        completed, filled = found.lay_into(frames, layers)
        truth = torch.stack([view(yaw - TURN_DEG * (k + 1)) for k in range(4)])
        new = torch.nn.functional.interpolate(layers.unseen[0][:, None], (HEIGHT, WIDTH))
        errors = [((x - truth).abs() * new).sum() / (3 * new.sum()) for x in (frames, completed)]
        assert filled.sum() > 0.8 * layers.unseen.sum()
        assert errors[1] < 0.03 and errors[1] < errors[0] / 3
        memory, yaw = turned(memory, yaw, -TURN_DEG)


def test_nothing_is_recalled_of_what_was_never_seen():
    memory, yaw = looked_away()
    _, layers, found, _ = recalled(memory, yaw, TURN_DEG)
    assert found is not None
    completed, filled = found.lay_into(torch.zeros(4, 3, HEIGHT, WIDTH), layers)
    new = torch.nn.functional.interpolate(layers.unseen[0][:, None], (HEIGHT, WIDTH)) == 1
    assert not filled.any() and not (completed * new)[..., -2:].any()
    assert recalled(ViewMemory(), 0.0, TURN_DEG)[2] is None


def test_what_is_worn_gets_its_detail_back():
    yaw = looked_away()[1]
    noise = 0.1 * torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    sharp = view(yaw) + noise
    turning(0.0)
    kept, _ = turned(ViewMemory(), yaw, 0.0)
    kept = dataclasses.replace(kept, views=(dataclasses.replace(kept.views[0], picture=jpeg(sharp)),))
    frames, layers, found, _ = recalled(kept, yaw, 0.0)
    assert found is not None
    completed, filled = found.lay_into(frames, layers)
    assert not filled.any()
    inner = (..., slice(6, -6), slice(6, -6))
    errors = [(x - sharp)[inner].square().mean() for x in (frames, completed)]
    assert errors[1] < 0.2 * errors[0]


def test_other_light_is_taken_over_and_another_place_is_not():
    memory, yaw = looked_away()
    darker = (view(yaw) + 1) * 0.7 - 1
    frames, layers, found, _ = recalled(memory, yaw, -TURN_DEG, darker)
    assert found is not None
    bright = recalled(memory, yaw, -TURN_DEG)[2]
    assert bright is not None
    gain = (found.shown + 1).mean((0, 2, 3)) / (bright.shown + 1).mean((0, 2, 3))
    torch.testing.assert_close(gain, torch.full((3,), 0.7), atol=0.02, rtol=0)
    completed, _ = found.lay_into(frames, layers)
    truth = (view(yaw - 4 * TURN_DEG) + 1) * 0.7 - 1
    new = torch.nn.functional.interpolate(layers.unseen[0][:, None], (HEIGHT, WIDTH))[3]
    assert ((completed[3] - truth).abs() * new).sum() < 0.03 * 3 * new.sum()
    assert recalled(memory, yaw, -TURN_DEG, view(yaw, place=1.5))[2] is None
    assert recalled(memory, yaw, -TURN_DEG, (view(yaw) + 1) * 0.4 - 1)[2] is None


def test_a_view_is_kept_once_and_anew_in_another_light():
    memory, _ = turned(ViewMemory(), 0.0, 0.0)
    again, _ = turned(memory, 0.0, 0.0)
    assert len(memory.views) == 1 and again.views == memory.views
    motion = turning(0.0)
    dark = to_pixels((view(0.0) + 1) * 0.5 - 1)
    other = memory.next(dark, motion.moving[0], motion, split_layers(motion))
    assert len(other.views) == 1 and other.views != memory.views


def test_views_far_away_are_given_up_first(monkeypatch):
    monkeypatch.setattr(view_memory, "MAX_VIEWS", 4)
    memory, motion = ViewMemory(), turning(0.0)
    ahead = motion._replace(translation=torch.tensor([0, 0, 2.0]).expand(1, 4, 3))
    for _ in range(7):
        memory = memory.next(to_pixels(view(0.0)), motion.moving[0], ahead, split_layers(ahead))
    assert [round(float(each.position[2])) for each in memory.views] == [6, 8, 10, 12]


def test_views_of_the_dark_look_alike_and_are_kept(monkeypatch):
    monkeypatch.setattr(view_memory, "MAX_VIEWS", 3)
    memory, motion = ViewMemory(), turning(0.0)
    dark = to_pixels(torch.full((3, HEIGHT, WIDTH), -1.0))
    for way in (2.0, 2.0, -2.0, -2.0, -2.0, 0.0):
        step = motion._replace(translation=torch.tensor([0, 0, way]).expand(1, 4, 3))
        memory = memory.next(dark, motion.moving[0], step, split_layers(step))
    assert len({each.picture for each in memory.views}) == 1
    assert [round(float(each.position[2])) for each in memory.views] == [0, 2, -2]


def test_the_camera_stays_a_camera():
    memory = looked_away(chunks=300)[0]
    torch.testing.assert_close(
        memory.rotation @ memory.rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0
    )
    turned_deg = math.degrees(math.atan2(memory.rotation[0, 2], memory.rotation[2, 2]))
    assert abs((turned_deg + 300 * 4 * TURN_DEG + 180) % 360 - 180) < 0.5


def test_only_what_stood_still_before_stands_still():
    motion, still = turning(TURN_DEG), torch.ones(1, ROWS, COLUMNS)
    still[:, 8:, 14:] = 0
    tool = motion._replace(moving=still)
    memory = ViewMemory().next(to_pixels(view(0.0)), still[0], tool, split_layers(tool))
    mistaken = still.clone()
    mistaken[:, 4:6, 4:6] = 0
    now = memory.moving_now(motion._replace(moving=mistaken))
    assert torch.equal(now, still[0].half())


def test_pixels_that_mostly_are_in_front_are_known_by_and_by():
    """A tool is as bright as the scenery behind it in every other frame."""
    motion, still = turning(TURN_DEG), torch.ones(1, ROWS, COLUMNS)
    still[:, 6:, 10:16] = 0
    tool = motion._replace(moving=still)
    memory = ViewMemory()
    assert (memory.expected_opacity((HEIGHT, WIDTH)) == 0.5).all()
    for number in range(12):
        last = torch.zeros(3, HEIGHT, WIDTH)
        last[:, 28:, 44:60] = 0.9 * (number % 2)
        memory = memory.next(to_pixels(last), still[0], tool, split_layers(tool))
    expected = memory.expected_opacity((HEIGHT, WIDTH))[0]
    assert expected[32:, 48:56].min() > 0.4 and expected[32:, 48:56].max() < 0.65
    assert expected[:20].max() < 0.1
    with pytest.raises(ValueError, match=r"the opacity in front of it has the shape \(2, 3\)"):
        memory_from_bytes(memory_to_bytes(dataclasses.replace(memory, opacity=torch.zeros(2, 3))))


def test_bytes_hold_all_of_it():
    memory = looked_away()[0]
    found = memory_from_bytes(memory_to_bytes(memory))
    assert memory_to_bytes(found) == memory_to_bytes(memory)
    assert torch.equal(found.rotation, memory.rotation) and torch.equal(found.moving, memory.moving)
    assert torch.equal(found.opacity, memory.opacity)
    assert [each.picture for each in found.views] == [each.picture for each in memory.views]
    assert memory_from_bytes(memory_to_bytes(ViewMemory())).is_new
    at_rest = turned(ViewMemory(), 0.0, 0.0)[0]
    found = memory_from_bytes(memory_to_bytes(at_rest))
    assert len(found.views) == 1 and found.moving is None
    assert len(memory_to_bytes(memory)) < 10_000 * len(memory.views)


def test_bytes_hold_the_pictures_that_are_laid_into_the_world_which_older_ones_lack():
    memory = looked_away()[0]
    motion = turning(TURN_DEG)
    pixels = to_pixels(view(50.0))
    parts = pixels, motion.inverse_depth[0], 1 - motion.moving[0]
    ahead = memory.view_at(*parts, place_3=torch.tensor([0, 0, 3.0]).double())
    beside = memory.view_at(*parts, rotation=torch.eye(3).double())
    for laid in ({"ahead": ahead}, {"beside": beside}, {"ahead": ahead, "beside": beside}):
        after = memory.next(pixels, motion.moving[0], motion, split_layers(motion), **laid)
        found = memory_from_bytes(memory_to_bytes(after))
        assert memory_to_bytes(found) == memory_to_bytes(after) and len(found.views) == len(after.views)
        assert (found.ahead is not None, found.beside is not None) == ("ahead" in laid, "beside" in laid)
    assert found.ahead is not None and found.distance(found.ahead) == pytest.approx(3)
    assert found.beside is not None and torch.equal(found.beside.rotation, beside.rotation)

    older = load(memory_to_bytes(memory))
    del older["kinds_V"], older["opacity_HW"]
    read = memory_from_bytes(save(older))
    assert read.opacity is None
    assert memory_to_bytes(dataclasses.replace(read, opacity=memory.opacity)) == memory_to_bytes(memory)


def test_damaged_bytes_are_refused():
    memory = looked_away()[0]
    data = memory_to_bytes(memory)
    tensors = load(data)
    tensors["kinds_V"][0] = 1
    with pytest.raises(ValueError, match="have the kinds"):
        memory_from_bytes(save(tensors))
    with pytest.raises(ValueError, match="cut off or damaged"):
        memory_from_bytes(data[:100])
    with pytest.raises(ValueError, match="the picture of a view is damaged"):
        memory_from_bytes(data.replace(b"\xff\xd8\xff\xe0", b"\0\0\0\0"))
    with pytest.raises(ValueError, match="25 views of at most 24"):
        memory_from_bytes(memory_to_bytes(dataclasses.replace(memory, views=memory.views[:1] * 25)))
    with pytest.raises(ValueError, match=r"views have \(48, 80\) pixels"):
        memory.check_size((96, 160))
