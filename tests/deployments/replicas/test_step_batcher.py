"""Continuous batching with a real tiny engine, without Ray."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from deployments.replicas.messages import (
    Chunk,
    EncodedText,
    Follow,
    InstructionUpdate,
    LatestRequest,
    Missing,
    Moved,
    Opened,
    OpenRequest,
    Rejected,
    StepRequest,
)
from deployments.replicas.step_batcher import StepBatcher
from gamegen.controls import Control
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.latent_decoder import LatentDecoder
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.model import Model
from gamegen.models.streaming_decoder import Reference
from gamegen.sessions.log import VideoPrompt
from tests.engine.test_video_play import untrained_model
from tests.engine.test_world import random_model
from tests.media.test_first_frames import video
from tests.serving import png

FORWARD = Control({"w"}).operations()


def words(seed: int) -> EncodedText:
    tokens = np.random.default_rng(seed).normal(size=(5, 384)).astype(np.float32)
    return EncodedText(tokens, tokens.mean(0))


@pytest.fixture
def batcher(tiny_model) -> StepBatcher:
    engine = WorldEngine(load_checkpoint(tiny_model).model, EngineConfig(max_sessions=2))
    return StepBatcher(engine, gather_s=0.2, threads=1)


async def begin(batcher: StepBatcher, session_id: str, seed: int = 0) -> None:
    await batcher.open(OpenRequest(session_id=session_id, fence=1, prompt=words(1), seed=seed))


async def step(batcher: StepBatcher, session_id: str, version: int, **more) -> Chunk | Missing:
    return await batcher.step(
        StepRequest(session_id=session_id, fence=1, version=version, operations=FORWARD, **more)
    )


async def test_simultaneous_steps_share_a_forward_pass(batcher):
    await begin(batcher, "a")
    await begin(batcher, "b")
    chunks = await asyncio.gather(step(batcher, "a", 0), step(batcher, "b", 0))
    assert [chunk.num_sessions for chunk in chunks] == [2, 2]


async def test_a_session_joins_at_the_next_chunk_boundary(batcher):
    await begin(batcher, "a")
    first = asyncio.create_task(step(batcher, "a", 0))
    await begin(batcher, "b")
    late = await step(batcher, "b", 0)
    assert isinstance(await first, Chunk) and isinstance(late, Chunk)
    assert (await step(batcher, "a", 1)).version == 2


async def test_wrong_version_and_unknown_session_are_missing(batcher):
    await begin(batcher, "a")
    assert await step(batcher, "a", 4) == Missing(0)
    assert await step(batcher, "nobody", 0) == Missing(None)


async def test_requests_of_an_earlier_owner_are_refused(batcher):
    await begin(batcher, "a")
    kept = await step(batcher, "a", 0, wants_snapshot=True)
    found = await batcher.latest(LatestRequest("a", 3, 1))
    assert isinstance(found, Opened) and np.array_equal(found.latent, kept.latent)
    assert await step(batcher, "a", 1) == Moved()
    assert await batcher.latest(LatestRequest("a", 2, 1)) == Moved()
    assert await batcher.restore("a", 2, kept.snapshot) == Moved()
    assert await batcher.open(OpenRequest(session_id="a", fence=2, prompt=words(1), seed=0)) == Moved()
    # No fence is kept of a session that is not held.
    assert await batcher.step(
        StepRequest(session_id="nobody", fence=9, version=0, operations=FORWARD)
    ) == Missing(None)
    await batcher.close("a")
    assert not batcher._fences


async def test_full_slots_evict_the_least_recently_used_session_and_its_snapshot_restores_it(batcher):
    await begin(batcher, "a", seed=5)
    await step(batcher, "a", 0)
    expected = await step(batcher, "a", 1, wants_snapshot=True)
    for other in ("b", "c"):
        await begin(batcher, other)
    assert await step(batcher, "a", 2) == Missing(None)
    await batcher.restore("a", 1, expected.snapshot)
    again = await step(batcher, "a", 1)
    np.testing.assert_array_equal(again.latent, expected.latent)


async def test_a_chunk_brings_the_reference_of_its_decoder():
    """With it another decoder draws the frames that the engine goes on from."""
    engine = WorldEngine(random_model(moves=True), EngineConfig(max_sessions=2))
    batcher, decoder = StepBatcher(engine, gather_s=0.2, threads=1), LatentDecoder(engine.model)
    await begin(batcher, "a")
    first = await step(batcher, "a", 0)
    assert first.reference is None
    second = await step(batcher, "a", 1)
    frames = await batcher._in_thread(lambda: engine.frames("a"))
    latents = [torch.from_numpy(chunk.latent) for chunk in (first, second)]
    parts = decoder.decode_in_parts(latents[1:], latents[:1], Reference.from_arrays(second.reference))
    np.testing.assert_array_equal(torch.cat([part[0] for part in parts]), frames)
    third = await step(batcher, "a", 2, wants_snapshot=True)
    await batcher.close("a")
    await batcher.restore("a", 1, third.snapshot)
    restored = await step(batcher, "a", 2)
    np.testing.assert_array_equal(restored.latent, third.latent)
    for one, other in zip(restored.reference, third.reference, strict=True):
        np.testing.assert_array_equal(one, other)


async def test_instruction_takes_effect_with_its_chunk(batcher):
    latents = []
    for instruction in (None, InstructionUpdate(words(2))):
        await begin(batcher, "a", seed=5)
        latents.append((await step(batcher, "a", 0, instruction=instruction)).latent)
    assert np.abs(latents[0] - latents[1]).max() > 1e-3


@pytest.mark.parametrize(("file", "num_chunks"), [(png(90, 50), 1), (video(12), 3), (video(60), 7)])
async def test_first_frames_are_resized_and_broken_ones_are_refused(batcher, file, num_chunks):
    opened = await batcher.open(
        OpenRequest(session_id="a", fence=1, prompt=words(1), seed=0, first_frames=file)
    )
    assert opened.version == num_chunks and opened.latent.shape == (4, 4, 4)
    refused = await batcher.open(
        OpenRequest(session_id="b", fence=1, prompt=words(1), seed=0, first_frames=file[:-40])
    )
    assert isinstance(refused, Rejected) and "send a complete" in refused.message


def loop_of(model: Model) -> StepBatcher:
    return StepBatcher(WorldEngine(model, EngineConfig(max_sessions=2)), gather_s=0.2, threads=1)


async def test_a_video_prompt_takes_effect_with_its_chunk_and_is_in_the_snapshot():
    batcher, other = loop_of(random_model()), loop_of(random_model())
    latents = await batcher.encode_video(VideoPrompt("canny", video(19)))
    assert latents.shape == (4, 4, 4, 4)
    chunks = []
    for follow in (None, Follow(latents)):
        await begin(batcher, "a", seed=5)
        chunks.append((await step(batcher, "a", 0, follow=follow)).latent)
    assert np.abs(chunks[0].astype(float) - chunks[1]).max() > 1e-3
    last = await step(batcher, "a", 1, wants_snapshot=True)
    await other.restore("a", 1, last.snapshot)
    np.testing.assert_array_equal((await step(other, "a", 1)).latent, last.latent)
    for version in range(2, 6):
        one, same = await step(batcher, "a", version), await step(other, "a", version)
        np.testing.assert_array_equal(one.latent, same.latent)


async def test_a_video_that_cannot_be_read_is_refused():
    refused = await loop_of(random_model()).encode_video(VideoPrompt("canny", video(3)))
    assert isinstance(refused, Rejected) and "3 frames" in refused.message


async def test_a_model_that_follows_no_video_refuses_one_and_goes_on_with_the_others():
    batcher = loop_of(untrained_model())
    refused = await batcher.encode_video(VideoPrompt("canny", video(8)))
    assert isinstance(refused, Rejected) and "follows no video prompts" in refused.message
    await begin(batcher, "a")
    await begin(batcher, "b")
    follow = Follow(np.zeros((2, 4, 4, 4), np.float16))
    refused, drawn = await asyncio.gather(step(batcher, "a", 0, follow=follow), step(batcher, "b", 0))
    assert isinstance(refused, Rejected) and "follows no video prompts" in refused.message
    assert isinstance(drawn, Chunk)
    assert isinstance(await step(batcher, "a", 0), Chunk)


async def test_a_failing_step_reaches_its_callers_and_the_batcher_goes_on(batcher, monkeypatch):
    await begin(batcher, "a")

    def fail(operations):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(batcher._engine, "step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            await step(batcher, "a", 0)
    assert isinstance(await step(batcher, "a", 0), Chunk)
