"""A session drawn again is the session that was played, and what is exported of it is footage."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.replicas.messages import (
    Chunk,
    EncodedText,
    Follow,
    InstructionUpdate,
    OpenRequest,
    StepRequest,
)
from deployments.replicas.step_batcher import StepBatcher
from gamegen.controls import Control
from gamegen.curation import curate, shards
from gamegen.curation.buckets import BucketConfig
from gamegen.curation.curate import CurationConfig
from gamegen.curation.encode import Encoder
from gamegen.curation.encoded_clip import EncodedClip
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.latent_decoder import LatentDecoder, StreamPast
from gamegen.footage.clips import read_table
from gamegen.media.frames import resize_to
from gamegen.media.mp4 import read_mp4
from gamegen.media.untrusted import read_frames
from gamegen.models.text import compose_prompt, load_text_encoder
from gamegen.replay.replay import draw, export, replay
from gamegen.sessions.log import (
    LoggedInstruction,
    LoggedVideoPrompt,
    SessionLog,
    VideoPrompt,
    WorldSpec,
    rounded,
)
from gamegen.sessions.log_file import from_json, to_json
from gamegen.world import World
from tests.engine.test_video_play import untrained_model
from tests.engine.test_world import random_model
from tests.gallery.samples import random_start
from tests.media.test_first_frames import video

CONTROLS = [rounded(Control(keys, yaw)) for keys, yaw in (({"w"}, 0), ({"left"}, 0.3), ((), -6))] * 3


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def recorded_start() -> bytes:
    return random_start(random_model(), mirrored=True).to_bytes()


FILES = ["picture", "video", "gallery"]
SPEC = WorldSpec(model="tiny", prompt="snow", perspective="third", seed=5, width=32, height=32)
LOG = SessionLog(
    SPEC,
    CONTROLS,
    [
        LoggedInstruction(2, "fog"),
        LoggedInstruction(2, "make it rain"),
        LoggedInstruction(5, ""),
        LoggedInstruction(9, "too late"),
    ],
)


@pytest.fixture(scope="module")
def world() -> World:
    """A world in which no weight is silent: keys and words change its pictures."""
    engine = WorldEngine(random_model(), EngineConfig(max_sessions=1))
    return World(engine, load_text_encoder("minilm"))


def frames_of(world: World, log: SessionLog) -> np.ndarray:
    return np.stack([*draw(world, log)])


@pytest.mark.parametrize("file", [picture(32, 32), video(30), recorded_start()], ids=FILES)
def test_replayed_twice_is_the_same_and_so_is_its_file(world, file):
    log = dataclasses.replace(LOG, spec=dataclasses.replace(SPEC, first_frames=file))
    first = frames_of(world, log)
    assert first.shape == (9, 4, 32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(frames_of(world, from_json(to_json(log))), first)


def test_it_is_what_was_played(world):
    world.reset("snow", 5, "third")
    played = []
    for i, control in enumerate(CONTROLS):
        if i == 2:
            world.instruct("make it rain")
        if i == 5:
            world.instruct(None)
        played.append(world.step(control))
    np.testing.assert_array_equal(frames_of(world, LOG), np.stack(played))


@pytest.mark.parametrize(
    "spoken",
    [[], [LoggedInstruction(2, "make it rain")], [LoggedInstruction(2, "fog"), LoggedInstruction(5, "")]],
    ids=["none", "held", "other"],
)
def test_words_count_from_their_chunk_on(world, spoken):
    same = frames_of(world, LOG) == frames_of(world, dataclasses.replace(LOG, spoken=spoken))
    begins = 5 if spoken == [LoggedInstruction(2, "make it rain")] else 2
    assert same[:begins].all() and not same[begins:].all()


WALK = VideoPrompt("motion", video(14))


@pytest.mark.parametrize(
    "followed",
    [
        [LoggedVideoPrompt(1, WALK.id)],
        [LoggedVideoPrompt(1, WALK.id), LoggedVideoPrompt(2, "")],
        [LoggedVideoPrompt(1, WALK.id), LoggedVideoPrompt(3, WALK.id)],
    ],
    ids=["whole", "lifted", "again"],
)
def test_video_prompts_are_followed_as_they_were_played(world, followed):
    log = dataclasses.replace(LOG, spoken=[], followed=followed, video_prompts={WALK.id: WALK})
    drawn = frames_of(world, from_json(to_json(log)))
    pictures = read_frames(WALK.file, (32, 32), 14)
    world.reset("snow", 5, "third")
    asked = {it.chunk: pictures if it.video_prompt else None for it in followed}
    for index, control in enumerate(CONTROLS):
        if index in asked:
            world.prompt_video(asked[index], WALK.kind)
        np.testing.assert_array_equal(world.step(control), drawn[index])
    without = frames_of(world, dataclasses.replace(LOG, spoken=[]))
    assert (drawn[0] == without[0]).all() and (drawn[1] != without[1]).any()


async def test_a_server_shows_the_same_of_a_video_prompt(world):
    model = world.engine.model
    log = dataclasses.replace(
        LOG,
        spoken=[],
        followed=[LoggedVideoPrompt(1, WALK.id), LoggedVideoPrompt(6, "")],
        video_prompts={WALK.id: WALK},
    )
    loop, decoder = (
        StepBatcher(WorldEngine(model), gather_s=0.0, threads=torch.get_num_threads()),
        LatentDecoder(model),
    )
    states = world.text_encoder.encode([compose_prompt("snow", "third")])[0]
    await loop.open(
        OpenRequest(
            session_id="a", fence=1, prompt=EncodedText(states.tokens.numpy(), states.pooled.numpy()), seed=5
        )
    )
    latents = await loop.encode_video(WALK)
    assert latents.shape == (3, 4, 4, 4) and latents.dtype == np.float16
    past, shown = StreamPast(), []
    for i, control in enumerate(CONTROLS):
        follow = {1: Follow(latents), 6: Follow(None)}.get(i)
        chunk = await loop.step(
            StepRequest(session_id="a", fence=1, version=i, operations=control.operations(), follow=follow)
        )
        latent = torch.from_numpy(chunk.latent.copy())
        frames = decoder.decode([latent], [past], [control.operations()])[0]
        past = past.next(latent, frames, control.operations())
        shown.append(frames.numpy())
    np.testing.assert_array_equal(frames_of(world, log), np.stack(shown))


def test_a_branch_is_the_same_up_to_its_chunk_and_another_after(world):
    whole = frames_of(world, LOG)
    other = frames_of(world, LOG.branch(4, [Control({"s", "right"})] * 3))
    assert len(other) == 7
    np.testing.assert_array_equal(other[:4], whole[:4])
    assert (other[4] != whole[4]).any()


@pytest.mark.parametrize("file", [picture(50, 40), video(30), recorded_start()], ids=FILES)
async def test_it_is_what_a_server_shows(world, file):
    """By the deployments' own loop and decoder: with first frames and a size that are not the model's."""
    model, encode = world.engine.model, world.text_encoder.encode
    log = dataclasses.replace(LOG, spec=dataclasses.replace(SPEC, width=64, height=48, first_frames=file))

    def words(text: str) -> EncodedText:
        states = encode([text])[0]
        return EncodedText(states.tokens.numpy(), states.pooled.numpy())

    loop, decoder = (
        StepBatcher(WorldEngine(model), gather_s=0.0, threads=torch.get_num_threads()),
        LatentDecoder(model),
    )
    opened = await loop.open(
        OpenRequest(
            session_id="a", fence=1, prompt=words(compose_prompt("snow", "third")), seed=5, first_frames=file
        )
    )
    past, shown = StreamPast(torch.from_numpy(opened.latent.copy())), []
    for i, control in enumerate(CONTROLS):
        said = {2: InstructionUpdate(words("make it rain")), 5: InstructionUpdate(None)}.get(i)
        chunk = await loop.step(
            StepRequest(
                session_id="a",
                fence=1,
                version=opened.version + i,
                operations=control.operations(),
                instruction=said,
            )
        )
        assert isinstance(chunk, Chunk)
        latent = torch.from_numpy(chunk.latent.copy())
        frames = decoder.decode([latent], [past], [control.operations()])[0]
        past = past.next(latent, frames, control.operations())
        shown.append(resize_to(frames.numpy(), (64, 48)))
    np.testing.assert_array_equal(frames_of(world, log), np.stack(shown))


def test_what_cannot_be_drawn_is_refused_before_anything_is(world, monkeypatch):
    monkeypatch.setattr(world, "step", lambda control: pytest.fail("drawn"))
    with pytest.raises(ValueError, match="the limit is 300"):
        draw(world, SessionLog(SPEC, CONTROLS, [LoggedInstruction(8, "word " * 400)]))
    with pytest.raises(ValueError, match="video cannot be read"):
        draw(world, SessionLog(dataclasses.replace(SPEC, first_frames=b"nothing"), CONTROLS))
    prompts = {"walk": VideoPrompt("canny", video(4)[:-30])}
    with pytest.raises(ValueError, match="is cut off"):
        draw(world, SessionLog(SPEC, CONTROLS, [], [LoggedVideoPrompt(8, "walk")], prompts))
    with pytest.raises(ValueError, match="no checkpoint at 'nowhere'"):
        replay(SessionLog(dataclasses.replace(SPEC, model="nowhere"), CONTROLS))


def test_a_model_that_follows_no_videos_draws_no_log_with_some(world):
    deaf = World(WorldEngine(untrained_model(), EngineConfig(max_sessions=1)), world.text_encoder)
    with pytest.raises(ValueError, match="follows no video prompts"):
        draw(deaf, SessionLog(SPEC, CONTROLS, [], [LoggedVideoPrompt(8, WALK.id)], {WALK.id: WALK}))


def test_the_model_is_the_logs_own_or_the_one_given(tiny_model):
    log = SessionLog(dataclasses.replace(SPEC, model=str(tiny_model)), CONTROLS[:2])
    own = np.stack([*replay(log)])
    elsewhere = dataclasses.replace(log, spec=dataclasses.replace(SPEC, model="nowhere"))
    np.testing.assert_array_equal(np.stack([*replay(elsewhere, str(tiny_model))]), own)


def test_exported_play_is_footage_to_train_on(world, tiny_model, tmp_path):
    spec = dataclasses.replace(SPEC, model=str(tiny_model))
    spoken = [LoggedInstruction(0, "make it rain"), LoggedInstruction(6, "go to first-person view")]
    log = SessionLog(spec, [CONTROLS[i // 4 % 3] for i in range(13)], spoken)
    (clip,) = export(log, tmp_path / "played", chunks=draw(world, log))
    assert [row.clip_id for row in read_table(tmp_path / "played")] == [clip.clip_id]
    # Pictures of random weights are noise, of which a video keeps little; still no frame within two chunks is as near.
    seen = read_mp4(tmp_path / "played" / clip.path).reshape(52, 1, -1).astype(float)
    drawn = frames_of(world, log).reshape(1, 52, -1)
    apart = np.abs(np.subtract.outer(np.arange(52), np.arange(52)))
    distance = np.abs(seen - drawn).mean(2) + np.where(apart > 8, np.inf, 0.0)
    assert distance.argmin(1).tolist() == [*range(52)]

    config = CurationConfig(buckets=BucketConfig(sizes=((32, 32),), lengths=(48,)))
    (step,) = curate.plan(tmp_path / "played", tmp_path / "curated", config)
    result = curate.curate_shard(step, tmp_path / "played", tmp_path / "curated", config)
    assert (result.num_kept, result.rejected) == (1, [])
    (part,) = shards.part_files(tmp_path / "curated")
    Encoder(str(tiny_model)).encode_part(part, tmp_path / "encoded.parquet")
    (row,) = shards.pq.read_table(tmp_path / "encoded.parquet").to_pylist()
    encoded = EncodedClip.from_row(row)

    wanted = np.stack([control.operations() for control in log.controls])
    wanted[0, 0] = 0  # no frame comes before it that could hold it
    np.testing.assert_allclose(encoded.operations, wanted, atol=2e-3)
    said = [(i["chunk"], i["kind"], i["states"]["text"]) for i in row["instructions"]]
    assert said == [(0, "weather", "make it rain"), (6, "perspective", "go to first-person view")]
    assert row["segments"][0]["prompts"][0]["text"] == compose_prompt("snow", "third")
    assert (row["game"], row["world_seed"], clip.licence) == ("gamegen", 5, "unknown")


def test_a_part_can_be_exported_and_again_replaces_itself(world, tiny_model, tmp_path):
    log = SessionLog(dataclasses.replace(SPEC, model=str(tiny_model)), CONTROLS)
    for _ in range(2):
        (clip,) = export(log, tmp_path, start=7)
        assert clip.num_frames == 8
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="chunk 9: this session has 9"):
        export(log, tmp_path, start=9)
    with pytest.raises(ValueError, match="end before chunk 9"):
        export(log, tmp_path / "short", chunks=frames_of(world, log)[:3])
    assert not list((tmp_path / "short").iterdir())
