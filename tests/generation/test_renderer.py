"""Clips come out the same to the last bit, wherever they are interrupted and whoever is drawn with them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gamegen.controls import Control
from gamegen.engine.engine import WorldEngine
from gamegen.engine.frame_pass import CompiledFramePass
from gamegen.generation.drawing import Drawing
from gamegen.generation.renderer import MAX_BATCH, ClipConfig, ClipRenderer
from gamegen.generation.spec import ClipStart, guidance_of
from gamegen.models.sampling import SOLVERS, SamplingConfig
from gamegen.models.text import TextStates
from tests.engine.test_batches import PASSES
from tests.engine.test_world import random_model, words
from tests.generation.specs import a_clip
from tests.picture_samples import moving_square, mp4_bytes, png

GUIDED = a_clip(guidance_scale=2.0)
STEPS = 7


def finish(renderer: ClipRenderer, *drawings: Drawing) -> torch.Tensor:
    """The latents of the first, after all steps that are left of it."""
    while not drawings[0].is_done:
        renderer.step([drawing for drawing in drawings if not drawing.is_done])
    return drawings[0].latents


RENDERERS = [
    # The slowest one: what moves is seen with four rows, and one row with the others.
    pytest.param(
        (how, rows), id=str((how, rows)), marks=[pytest.mark.long] if (how, rows) == ("moving", 1) else []
    )
    for how in PASSES
    for rows in (1, 4)
]


@pytest.fixture(scope="module", params=RENDERERS)
def renderer(request: pytest.FixtureRequest) -> ClipRenderer:
    how, rows = request.param
    renderer = ClipRenderer(PASSES[how](), ClipConfig(rows=rows))
    assert isinstance(renderer.engine((32, 32)).runner.frame_pass, CompiledFramePass) == (how == "onnx")
    return renderer


@pytest.mark.parametrize(
    ("spec", "negative"),
    [
        (a_clip(), None),
        (GUIDED, None),
        (GUIDED, words(5, length=8)),
        (a_clip(solver="heun"), None),
        (a_clip(solver="consistency"), None),
    ],
    ids=["plain", "guided", "negative", "heun", "consistency"],
)
def test_an_interrupted_clip_is_the_same_whoever_is_drawn_with_it(renderer, spec, negative):
    """At every step; the others come and go, have texts of other lengths and are at other chunks."""
    alone = renderer.begin(spec, words(1), negative)
    checkpoints = [alone.checkpoint()]
    while not alone.is_done:
        renderer.step([alone])
        checkpoints.append(alone.checkpoint())
    assert len(checkpoints) == STEPS + 1
    for at, checkpoint in enumerate(checkpoints):
        earlier = [renderer.begin(spec, words(20 + i, length=3 + 40 * i)) for i in range(at % 3)]
        for number, other in enumerate(earlier):
            for _ in range(number + 1):
                renderer.step([other])
        resumed = renderer.resume(spec, words(1), negative, checkpoint.data)
        later = renderer.begin(spec, words(30, length=11), words(31))
        assert resumed.step == checkpoint.step and resumed.num_steps == checkpoints[-1].step
        if not resumed.is_done:
            renderer.step([*earlier, resumed])
        for other in earlier[:1]:
            renderer.close(other)
        assert torch.equal(finish(renderer, resumed, *earlier[1:], later), alone.latents)
        for other in (*earlier, later):
            renderer.close(other)


def test_steps_are_those_of_a_session_that_is_played(renderer):
    drawn = finish(renderer, renderer.begin(a_clip(), words(1)))
    engine = WorldEngine(renderer.model, size=(32, 32))
    engine.open("a", words(1), seed=3)
    played = np.stack([engine.step({"a": Control({"w"}).operations()})["a"] for _ in range(3)])
    assert drawn.shape == (3, 4, 4, 4)
    # Rows and texts of another length are summed in another order.
    np.testing.assert_allclose(drawn.float().numpy(), played.astype(np.float32), atol=2e-3)


def test_every_step_is_one_pass_and_all_chunks_but_the_last_are_committed():
    renderer, passes = small(), []
    assert renderer.model.foundation is not None
    renderer.model.foundation.register_forward_hook(lambda *_: passes.append(1))
    drawing = renderer.begin(a_clip(), words(1))
    assert all(renderer.step([drawing]) > 0 for _ in range(STEPS)) and drawing.is_done
    assert len(passes) == STEPS + 2


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize(("solver", "num_passes"), [("euler", 7), ("heun", 11), ("consistency", 7)])
def test_steps_are_counted_in_passes_of_the_model(solver, num_passes, guidance_scale):
    """Three, two and two solver steps, of which a chunk's last takes one pass; with guidance all take two."""
    renderer, passes = small(), []
    assert renderer.model.foundation is not None
    renderer.model.foundation.register_forward_hook(lambda *_: passes.append(1))
    drawing = renderer.begin(a_clip(solver=solver, guidance_scale=guidance_scale), words(1))
    assert drawing.num_steps == num_passes * guidance_scale
    finish(renderer, drawing)
    # Two chunks are committed.
    assert len(passes) - 2 == drawing.step == drawing.num_steps


def test_solvers_draw_different_clips():
    renderer = small()
    drawn = [finish(renderer, renderer.begin(a_clip(solver=solver), words(1))) for solver in (None, *SOLVERS)]
    assert torch.equal(drawn[0], drawn[1])
    assert all((one - other).abs().max() > 1e-3 for one, other in itertools.combinations(drawn[1:], 2))


def small(moves: bool = False) -> ClipRenderer:
    return ClipRenderer(random_model(moves=moves), ClipConfig(max_drawings=2, max_sizes=1))


def test_prompt_negative_seed_guidance_and_keys_count():
    renderer = small()

    def draw(spec=GUIDED, prompt=1, negative: TextStates | None = None, **more) -> torch.Tensor:
        return finish(renderer, renderer.begin(spec, words(prompt), negative, **more))

    first = draw()
    others = [
        draw(prompt=2),
        draw(negative=words(5)),
        draw(a_clip(guidance_scale=2.0, seed=4)),
        draw(a_clip(guidance_scale=3.0)),
        draw(controls=[Control({"s"})] * 3),
    ]
    assert all((other - first).abs().max() > 1e-3 for other in others)
    # Without guidance there is nothing that it could lead away from.
    assert torch.equal(draw(a_clip()), draw(a_clip(), negative=words(5)))


def test_a_first_picture_is_the_first_chunk():
    renderer = small()
    spec = a_clip(start=ClipStart.IMAGE)
    first = renderer.first_latents(spec, png(64, 64))
    drawing = renderer.begin(spec, words(1), first=first)
    assert drawing.num_steps == 4 and drawing.num_before == 0
    latents = finish(renderer, drawing)
    assert torch.equal(latents[:1], first.half()) and len(latents) == 3
    whole = renderer.begin(a_clip(num_frames=4, start=ClipStart.IMAGE), words(1), first=first)
    assert whole.is_done and whole.num_steps == whole.step == 0


@pytest.mark.parametrize("moves", [False, True])
def test_a_clip_goes_on_after_a_source_video(moves):
    """It remembers as much as the model does, and resumes as any other."""
    renderer = small(moves)
    spec = a_clip(start=ClipStart.VIDEO)
    history = renderer.engine((32, 32)).history
    first = renderer.first_latents(spec, mp4_bytes(moving_square(4 * history + 6, 32, 32)))
    assert len(first) == history
    drawing = renderer.begin(spec, words(1), first=first)
    assert drawing.num_steps == 6 and drawing.num_before == history
    for _ in range(3):
        renderer.step([drawing])
    checkpoint = drawing.checkpoint().data
    latents = finish(renderer, drawing)
    assert len(latents) == history + 3
    resumed = renderer.resume(spec, words(1), None, checkpoint)
    assert resumed.step == 3
    assert torch.equal(finish(renderer, resumed), latents)


def test_files_in_the_wrong_place_are_refused():
    renderer = small()
    with pytest.raises(ValueError, match="give it as the image"):
        renderer.first_latents(a_clip(start=ClipStart.VIDEO), png(32, 32))
    with pytest.raises(ValueError, match="give a video as the source"):
        renderer.first_latents(a_clip(start=ClipStart.IMAGE), b"ftyp")
    with pytest.raises(ValueError, match="starts from nothing takes no first latents"):
        renderer.begin(a_clip(), words(1), first=torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="2 first latents"):
        renderer.begin(a_clip(start=ClipStart.IMAGE), words(1), first=torch.zeros(2, 4, 4, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 0}, "frames = 0: a clip has at least 1"),
        ({"width": 33}, "width = 33"),
        ({"num_steps": 0}, "num_steps = 0: a chunk takes 1 to 100"),
        ({"num_steps": 101}, "num_steps = 101"),
        ({"guidance_scale": float("nan")}, "guidance_scale = nan"),
        ({"guidance_scale": 21.0}, "guidance_scale = 21"),
        ({"solver": "rk4"}, "solver = 'rk4': use one of euler, heun, consistency"),
    ],
)
def test_clips_beyond_the_limits_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        a_clip(**changes)


def test_other_numbers_of_steps_count_for_the_first_chunk_as_well():
    renderer = small()
    assert renderer.plan(a_clip(num_steps=1)).num_steps == 3 + 1 + 1
    assert renderer.plan(a_clip(num_steps=5)).num_steps == 15
    assert len(finish(renderer, renderer.begin(a_clip(num_steps=5), words(1)))) == 3


def test_rows_are_those_at_which_a_clips_place_does_not_count():
    with pytest.raises(ValueError, match="rows = 3: must be one of 1, 2, 4, 8"):
        ClipConfig(rows=3)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert (ClipConfig().rows_on(cpu), ClipConfig().rows_on(gpu)) == (1, 4)
    assert (ClipConfig(rows=8).rows_on(cpu), ClipConfig(max_drawings=1).rows_on(gpu)) == (8, 1)


def test_slots_and_sizes_are_bounded():
    renderer = small()
    one, two = renderer.begin(a_clip(), words(1)), renderer.begin(a_clip(seed=4), words(1))
    with pytest.raises(RuntimeError, match="all 2 session slots"):
        renderer.begin(a_clip(), words(1))
    wide = a_clip(width=48)
    with pytest.raises(RuntimeError, match="clips of 32x32 are unfinished"):
        renderer.begin(wide, words(1))
    with pytest.raises(ValueError, match="2 batch keys"):
        renderer.step([one, renderer_of_its_own(wide)])
    with pytest.raises(ValueError, match=f"at a time|1 to {MAX_BATCH}"):
        renderer.step([])
    with pytest.raises(ValueError, match="listed twice"):
        renderer.step([one, one])
    renderer.close(one)
    with pytest.raises(ValueError, match="closed"):
        renderer.step([one, two])
    finish(renderer, two)
    assert renderer.begin(wide, words(1)).latents.numel() == 0


def renderer_of_its_own(spec) -> Drawing:
    return small().begin(spec, words(1))


def test_checkpoints_of_other_clips_and_models_are_refused():
    renderer = small()
    checkpoint = renderer.begin(a_clip(), words(1)).checkpoint().data
    for other in (a_clip(seed=4), a_clip(num_steps=3), a_clip(content_hash="of other texts")):
        with pytest.raises(ValueError, match="another clip or another model"):
            renderer.resume(other, words(1), None, checkpoint)
    with pytest.raises(ValueError, match="cut off, damaged or not a safetensors file"):
        renderer.resume(a_clip(), words(1), None, checkpoint[:-1])
    assert renderer.resume(a_clip(), words(1), None, checkpoint).step == 0


def test_a_negative_prompt_has_guidance_to_lead_away_by():
    own = SamplingConfig(guidance_scale=1.0)
    assert (
        guidance_of(None, own, has_negative=False) == 1 and guidance_of(0.5, own, has_negative=False) == 0.5
    )
    assert guidance_of(None, own, has_negative=True) > 1
    assert guidance_of(None, SamplingConfig(guidance_scale=4.0), has_negative=True) == 4
    assert guidance_of(1.5, own, has_negative=True) == 1.5
    for asked in (0.0, 1.0):
        with pytest.raises(ValueError, match="leaves the negative prompt without effect: give more than 1"):
            guidance_of(asked, own, has_negative=True)
