"""The world engine's equalities: cached = full attention, restored = uninterrupted, batched = lone."""

import dataclasses
import gc

import numpy as np
import pytest
import torch

from gamegen.controls import Control
from gamegen.engine.conditioning import NO_INSTRUCTION, Conditioning, InstructionState
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.slots import UnknownSessionError
from gamegen.engine.snapshot import PastChunk, WorldSnapshot
from gamegen.flow import add_noise, counter_noise
from gamegen.media.first_frames import check_frames_fit
from gamegen.models import motion_compensation
from gamegen.models.instructnet import ControlInputs
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import MotionConfig
from gamegen.models.motion_compensation import compensate_stream
from gamegen.models.msdit import MSDiTConfig
from gamegen.models.network_inputs import Previous, Text
from gamegen.models.opening import Opening
from gamegen.models.text import TextStates
from gamegen.models.vae import VAEConfig


def random_model(anchors: int = 0, moves: bool = False) -> Model:
    """Every weight random, zero-initialised ones included, so that no path is silent.

    With `moves` the next chunk is made from the frames shown last: by the foundation, which is given motion-compensated
    latents, and by the decoder.
    """
    torch.manual_seed(0)
    foundation = dataclasses.replace(MSDiTConfig.tiny(), anchors=anchors, motion_compensation=moves)
    vae = dataclasses.replace(VAEConfig.tiny(), linear_encoder=moves, streaming_reference=moves)
    parts = {"foundation": foundation, "vae": vae, "motion": MotionConfig.tiny() if moves else None}
    model = Model(dataclasses.replace(ModelConfig.tiny(), **parts)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1)
    return model


def words(seed: int, length: int = 5) -> TextStates:
    tokens = torch.randn(length, 384, generator=torch.Generator().manual_seed(seed))
    return TextStates(tokens, tokens.mean(0))


def play(
    engine: WorldEngine, sid: str, start: int, stop: int, frames: list[np.ndarray] | None = None
) -> np.ndarray:
    """Latents of chunks start to stop of a fixed script with an instruction at chunk 4; `frames` gets the frames."""
    script = [Control(k) for k in ({"w"}, {"left"}, set(), {"d", "space"})]
    chunks = []
    for i in range(start, stop):
        if i == 4:
            engine.instruct(sid, words(9))
        chunks.append(engine.step({sid: script[i % 4].operations()})[sid])
        if frames is not None:
            frames.append(engine.frames(sid))
    return np.stack(chunks)


@pytest.mark.parametrize(("anchors", "moves"), [(0, False), (1, False), (0, True), (1, True)])
def test_cached_rollout_equals_full_attention(anchors, moves, monkeypatch):
    # One at a time, as the engine does: in batches of another size, a value in thousands rounds to the next float16.
    monkeypatch.setattr(motion_compensation, "_PER_PASS", 1)
    model = random_model(anchors, moves)
    # The moved frames below know nothing of earlier views.
    model.recalls_views = False
    engine = WorldEngine(model)
    engine.open("a", words(1), seed=3)
    frames: list[np.ndarray] = []
    latents = torch.from_numpy(play(engine, "a", 0, 9, frames)).float()[None]
    keys = ({"w"}, {"left"}, set(), {"d", "space"})
    operations = np.stack([Control(keys[i % 4]).operations() for i in range(9)])
    sampling = model.config.sampling
    # What the committing pass of every chunk saw, all chunks at once without a cache.
    noise = lambda purpose, i: counter_noise(3, i, purpose, engine.latent_shape)  # noqa: E731
    levels = torch.full((1, 9), sampling.history_level)
    x = add_noise(latents, torch.stack([noise("commit", i) for i in range(9)])[None], levels)
    before, confidence = torch.cat([torch.zeros_like(latents[:, :1]), latents[:, :-1]], 1), None
    if moves:
        with torch.inference_mode():
            shown = torch.from_numpy(np.concatenate(frames))
            found = compensate_stream(model, shown, torch.from_numpy(operations))
        before, confidence = (
            x[None].half().float() for x in (model.normalise(found.latent), found.confidence)
        )
        before[:, 0], confidence[:, 0] = 0, 0
    before_level = torch.full((1, 9), sampling.context_level)
    noisy = add_noise(before, torch.stack([noise("previous", i) for i in range(9)])[None], before_level)
    before_level[0, 0] = -1
    previous = Previous(before, noisy, before_level, confidence)
    active = torch.tensor([[float(i >= 4) for i in range(9)]])
    said, prompt = words(9), words(1)
    controls = ControlInputs(
        torch.from_numpy(operations)[None],
        torch.ones(1, 9, dtype=torch.bool),
        Text.stack([(said.tokens, said.pooled)], 384),
        active,
    )
    text = Text.stack([(prompt.tokens, prompt.pooled)], 384)
    with torch.inference_mode():
        whole = model.foundation(
            x, levels, previous, text, model.video_format, model.instructnet.bind(controls)
        )
        engine.commit()
        # Restoring commits one chunk after the other.
        seen = []
        forward = engine.runner.frame_pass
        engine.runner.frame_pass = lambda *arguments: seen.append(forward(*arguments)) or seen[-1]
        instructions = [InstructionState(said, 1.0) if i >= 4 else NO_INSTRUCTION for i in range(9)]
        chunks = [
            PastChunk(latents[0, i].half(), Conditioning(operations[i], instructions[i])) for i in range(9)
        ]
        snapshot = WorldSnapshot(
            seed=3,
            version=9,
            prompt=prompt,
            chunks=chunks,
            anchors=chunks[:anchors],
            upcoming=instructions[-1:],
        )
        engine.restore("b", snapshot)
    torch.testing.assert_close(torch.cat(seen, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("anchors", "moves"), [(0, False), (2, False), (0, True), (2, True)])
@pytest.mark.parametrize("at", [1, 3, 30])
def test_restored_snapshot_equals_uninterrupted_run(at, anchors, moves):
    model = random_model(anchors, moves)
    engine = WorldEngine(model)
    engine.open("a", words(1), seed=3)
    play(engine, "a", 0, at)
    data = engine.snapshot("a").to_bytes()
    uninterrupted = play(engine, "a", at, at + 5)
    other = WorldEngine(model)
    other.restore("a", WorldSnapshot.from_bytes(data))
    assert other.version("a") == at
    np.testing.assert_array_equal(play(other, "a", at, at + 5), uninterrupted)


def play_blended(engine: WorldEngine, sid: str, start: int, stop: int) -> np.ndarray:
    """Chunks start to stop under words that come in slowly, give way to others and to others again, and go."""
    said = {1: (words(9), 6), 5: (words(8, 11), 4), 7: (words(7, 3), 3), 12: (None, 2)}
    chunks = []
    for i in range(start, stop):
        if i in said:
            engine.instruct(sid, *said[i])
        chunks.append(engine.step({sid: Control({"w"}).operations()})[sid])
    return np.stack(chunks)


@pytest.mark.parametrize("at", [3, 6, 8, 13])
@pytest.mark.parametrize("anchors", [0, 3])
def test_a_snapshot_amid_changing_words_continues_bit_for_bit(at, anchors):
    model = random_model(anchors)
    engine, other = WorldEngine(model), WorldEngine(model)
    engine.open("a", words(1), seed=3)
    play_blended(engine, "a", 0, at)
    other.restore("a", WorldSnapshot.from_bytes(engine.snapshot("a").to_bytes()))
    np.testing.assert_array_equal(play_blended(other, "a", at, 16), play_blended(engine, "a", at, 16))


def test_words_that_come_in_slowly_change_the_world_less_at_first():
    model, chunks = random_model(), []
    for blend in (None, 8, 0):
        engine = WorldEngine(model)
        engine.open("a", words(1), seed=3)
        if blend is not None:
            engine.instruct("a", words(9), blend)
        chunks.append(engine.step({"a": Control({"w"}).operations()})["a"].astype(np.float32))
    silent, slow, abrupt = chunks
    assert 0 < np.abs(slow - silent).mean() < 0.4 * np.abs(abrupt - silent).mean()


def test_instructions_that_nothing_remembered_was_made_under_are_forgotten():
    engine = WorldEngine(random_model())
    engine.open("a", words(1), seed=3)
    sizes = []
    for t in range(100 + engine.history):
        engine.instruct("a", words(t if t < 100 else 99), t % 3 if t < 100 else 0)
        engine.step({"a": Control({"w"}).operations()})
        sizes.append(len(engine.snapshot("a").to_bytes()))
    assert max(sizes[50:100]) <= max(sizes[:50])
    # In the end there is one, and the prompt.
    words_of = {id(chunk.conditioning.instruction.text) for chunk in engine.snapshot("a").chunks}
    assert len(words_of) <= engine.history
    assert sizes[-1] < min(sizes[20:100])


def test_a_snapshot_of_another_world_is_refused():
    model = random_model()
    engine, large = WorldEngine(model), WorldEngine(model, size=(64, 32))
    engine.open("a", words(1), seed=3)
    engine.step({"a": Control().operations()})
    with pytest.raises(ValueError, match=r"latents of shape \(4, 4, 4\): this world's are \(4, 4, 8\)"):
        large.restore("a", engine.snapshot("a"))
    narrow = TextStates(torch.zeros(2, 8), torch.zeros(8))
    with pytest.raises(ValueError, match="texts of width 8"):
        engine.restore(
            "a",
            WorldSnapshot(seed=3, version=0, prompt=narrow, chunks=[], anchors=[], upcoming=[NO_INSTRUCTION]),
        )


@pytest.mark.parametrize("moves", [False, True])
def test_batched_session_equals_lone_session(moves):
    model = random_model(moves=moves)
    engine = WorldEngine(model)
    engine.open("lone", words(1), seed=3)
    lone = play(engine, "lone", 0, 6)
    engine.close("lone")
    engine.open("x", words(2, 8), seed=4)
    engine.step({"x": Control({"w"}).operations()})
    engine.open("a", words(1), seed=3)
    together = []
    script = [Control(k) for k in ({"w"}, {"left"}, set(), {"d", "space"})]
    for i in range(6):
        if i == 4:
            engine.instruct("a", words(9))
        operations = script[i % 4].operations()
        together.append(engine.step({"x": Control({"s"}).operations(), "a": operations})["a"])
    np.testing.assert_allclose(np.stack(together), lone, rtol=2e-2, atol=2e-3)


def test_keys_seed_and_words_change_the_world():
    engine = WorldEngine(random_model())
    results = []
    for prompt, seed, keys in ((1, 3, {"w"}), (1, 4, {"w"}), (2, 3, {"w"}), (1, 3, {"s"})):
        engine.open("a", words(prompt), seed)
        results.append(engine.step({"a": Control(keys).operations()})["a"])
    for other in results[1:]:
        assert np.abs(other - results[0]).max() > 1e-3


def test_starting_image_is_the_first_chunk():
    model = random_model()
    engine = WorldEngine(model)
    frames = np.full((4, 32, 32, 3), 200, np.uint8)
    engine.open("a", words(1), 0, Opening.of_frames(frames, model))
    assert engine.version("a") == 1
    with pytest.raises(ValueError, match="resize them to 32x32"):
        check_frames_fit(frames[:, :16], (32, 32))
    for wrong in (frames[:0], frames[:3]):
        with pytest.raises(ValueError, match="a chunk has 4"):
            check_frames_fit(wrong, (32, 32))


def test_slots_and_unknown_sessions():
    engine = WorldEngine(random_model(), config=EngineConfig(max_sessions=1))
    engine.open("a", words(1), 0)
    with pytest.raises(RuntimeError, match="all 1 session slots"):
        engine.open("b", words(1), 0)
    with pytest.raises(UnknownSessionError):
        engine.step({"b": Control().operations()})
    engine.close("a")
    engine.open("b", words(1), 0)
    assert engine.version("a") is None


def test_a_chunk_is_committed_once_whoever_asks_for_it():
    model = random_model()
    eager, late = WorldEngine(model), WorldEngine(model)
    passes = []
    model.foundation.register_forward_hook(lambda *_: passes.append(1))
    eager.open("a", words(1), seed=3)
    late.open("a", words(1), seed=3)
    for i in range(5):
        operations = Control({"w"}).operations()
        first = eager.step({"a": operations})["a"]
        eager.commit()
        eager.commit()
        count = len(passes)
        np.testing.assert_array_equal(late.step({"a": operations})["a"], first)
        # The late one commits the chunk before with the next: as many passes, but for its last chunk.
        assert len(passes) - count == (
            model.config.sampling.num_steps + 1 if i else model.config.sampling.first_steps
        )


def test_silence_is_left_out_and_changes_nothing():
    engine, model = WorldEngine(random_model()), random_model()
    calls = []
    for block in engine.instructnet.blocks:
        block.instruction.register_forward_hook(lambda *_: calls.append(1))
    engine.open("a", words(1), seed=3)
    alone = np.stack([engine.step({"a": Control({"w"}).operations()})["a"] for _ in range(3)])
    assert not calls
    both = WorldEngine(model)
    both.open("a", words(1), seed=3)
    both.open("b", words(2), seed=4)
    both.instruct("b", words(9))
    together = []
    for _ in range(3):
        operations = Control({"w"}).operations()
        together.append(both.step({"a": operations, "b": operations})["a"])
    np.testing.assert_allclose(np.stack(together), alone, atol=2e-3)


def test_words_are_read_once():
    engine = WorldEngine(random_model())
    reads = []
    for block in (*engine.foundation.blocks, *engine.instructnet.blocks):
        attention = block.cross if hasattr(block, "cross") else block.instruction
        attention.key_value.register_forward_hook(lambda *_: reads.append(1))
    engine.open("a", words(1), seed=3)
    play(engine, "a", 0, 3)
    assert len(reads) == len(engine.foundation.blocks)
    play(engine, "a", 3, 9)
    assert len(reads) == len(engine.foundation.blocks) + len(engine.instructnet.blocks)


def test_play_takes_no_more_memory_as_it_goes_on():
    engine = WorldEngine(random_model())
    engine.open("a", words(1), seed=3)
    engine.instruct("a", words(9))
    counts = []
    for _ in range(3):
        for _ in range(engine.history + 4):
            engine.step({"a": Control({"w"}).operations()})
        gc.collect()
        counts.append(sum(x.numel() for x in gc.get_objects() if issubclass(type(x), torch.Tensor)))
    assert counts[2] == counts[1]
