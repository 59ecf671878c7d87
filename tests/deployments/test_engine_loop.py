"""Continuous batching with a real tiny engine, without Ray."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from deployments.engine_loop import EngineLoop
from deployments.messages import (
    Chunk,
    EncodedText,
    Follow,
    Instruction,
    LatestRequest,
    Missing,
    Moved,
    Opened,
    OpenRequest,
    Refusal,
    StepRequest,
)
from gamegen.controls import Control
from gamegen.models.checkpoint import Model, load_checkpoint
from gamegen.session_log import VideoPrompt
from gamegen.world import EngineConfig, WorldEngine
from tests.serving import png
from tests.test_first_frames import video
from tests.test_video_play import untrained_model
from tests.test_world import random_model

FORWARD = Control({"w"}).operations()


def words(seed: int) -> EncodedText:
    tokens = np.random.default_rng(seed).normal(size=(5, 384)).astype(np.float32)
    return EncodedText(tokens, tokens.mean(0))


@pytest.fixture
def loop(tiny_model) -> EngineLoop:
    engine = WorldEngine(load_checkpoint(tiny_model).model, EngineConfig(max_sessions=2))
    return EngineLoop(engine, gather_s=0.2, threads=1)


async def begin(loop: EngineLoop, session_id: str, seed: int = 0) -> None:
    await loop.open(OpenRequest(session_id, 1, words(1), seed))


async def step(loop: EngineLoop, session_id: str, version: int, **more) -> Chunk | Missing:
    return await loop.step(StepRequest(session_id, 1, version, FORWARD, **more))


async def test_players_who_ask_together_share_a_forward_pass(loop):
    await begin(loop, "a")
    await begin(loop, "b")
    chunks = await asyncio.gather(step(loop, "a", 0), step(loop, "b", 0))
    assert [chunk.num_sessions for chunk in chunks] == [2, 2]


async def test_a_player_joins_at_the_next_chunk_boundary(loop):
    await begin(loop, "a")
    first = asyncio.create_task(step(loop, "a", 0))
    await begin(loop, "b")
    late = await step(loop, "b", 0)
    assert isinstance(await first, Chunk) and isinstance(late, Chunk)
    assert (await step(loop, "a", 1)).version == 2


async def test_wrong_version_and_unknown_session_are_missing(loop):
    await begin(loop, "a")
    assert await step(loop, "a", 4) == Missing(0)
    assert await step(loop, "nobody", 0) == Missing(None)


async def test_an_earlier_owner_can_do_nothing_any_more(loop):
    await begin(loop, "a")
    kept = await step(loop, "a", 0, wants_snapshot=True)
    found = await loop.latest(LatestRequest("a", 3, 1))
    assert isinstance(found, Opened) and np.array_equal(found.latent, kept.latent)
    assert await step(loop, "a", 1) == Moved()
    assert await loop.latest(LatestRequest("a", 2, 1)) == Moved()
    assert await loop.restore("a", 2, kept.snapshot) == Moved()
    assert await loop.open(OpenRequest("a", 2, words(1), 0)) == Moved()
    # Of those who are not here nothing is kept.
    assert await loop.step(StepRequest("nobody", 9, 0, FORWARD)) == Missing(None)
    await loop.close("a")
    assert not loop._fences


async def test_full_slots_push_out_the_one_idle_for_longest_and_its_snapshot_brings_it_back(loop):
    await begin(loop, "a", seed=5)
    kept = await step(loop, "a", 0, wants_snapshot=True)
    expected = await step(loop, "a", 1)
    for other in ("b", "c"):
        await begin(loop, other)
    assert await step(loop, "a", 2) == Missing(None)
    await loop.restore("a", 1, kept.snapshot)
    again = await step(loop, "a", 1)
    np.testing.assert_array_equal(again.latent, expected.latent)


async def test_instruction_takes_effect_with_its_chunk(loop):
    latents = []
    for instruction in (None, Instruction(words(2))):
        await begin(loop, "a", seed=5)
        latents.append((await step(loop, "a", 0, instruction=instruction)).latent)
    assert np.abs(latents[0] - latents[1]).max() > 1e-3


@pytest.mark.parametrize(("file", "num_chunks"), [(png(90, 50), 1), (video(12), 3), (video(60), 7)])
async def test_first_frames_are_resized_and_broken_ones_are_refused(loop, file, num_chunks):
    opened = await loop.open(OpenRequest("a", 1, words(1), 0, file))
    assert opened.version == num_chunks and opened.latent.shape == (4, 4, 4)
    refused = await loop.open(OpenRequest("b", 1, words(1), 0, file[:-40]))
    assert isinstance(refused, Refusal) and "send a complete" in refused.message


def loop_of(model: Model) -> EngineLoop:
    return EngineLoop(WorldEngine(model, EngineConfig(max_sessions=2)), gather_s=0.2, threads=1)


async def test_a_video_prompt_takes_effect_with_its_chunk_and_is_in_the_snapshot():
    loop, other = loop_of(random_model()), loop_of(random_model())
    latents = await loop.encode_video(VideoPrompt("canny", video(19)))
    assert latents.shape == (4, 4, 4, 4)
    chunks = []
    for follow in (None, Follow(latents)):
        await begin(loop, "a", seed=5)
        chunks.append((await step(loop, "a", 0, follow=follow, wants_snapshot=True)).latent)
    assert np.abs(chunks[0].astype(float) - chunks[1]).max() > 1e-3
    last = await step(loop, "a", 1, wants_snapshot=True)
    await other.restore("a", 1, last.snapshot)
    for version in range(2, 6):
        one, same = await step(loop, "a", version), await step(other, "a", version)
        np.testing.assert_array_equal(one.latent, same.latent)


async def test_a_video_that_cannot_be_read_is_refused():
    refused = await loop_of(random_model()).encode_video(VideoPrompt("canny", video(3)))
    assert isinstance(refused, Refusal) and "3 frames" in refused.message


async def test_a_model_that_follows_no_video_refuses_one_and_goes_on_with_the_others():
    loop = loop_of(untrained_model())
    refused = await loop.encode_video(VideoPrompt("canny", video(8)))
    assert isinstance(refused, Refusal) and "follows no video prompts" in refused.message
    await begin(loop, "a")
    await begin(loop, "b")
    follow = Follow(np.zeros((2, 4, 4, 4), np.float16))
    refused, drawn = await asyncio.gather(step(loop, "a", 0, follow=follow), step(loop, "b", 0))
    assert isinstance(refused, Refusal) and "follows no video prompts" in refused.message
    assert isinstance(drawn, Chunk)
    assert isinstance(await step(loop, "a", 0), Chunk)


async def test_failing_step_reaches_its_callers_and_the_loop_goes_on(loop, monkeypatch):
    await begin(loop, "a")

    def fail(operations):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(loop._engine, "step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            await step(loop, "a", 0)
    assert isinstance(await step(loop, "a", 0), Chunk)
