"""Motion-compensated latents: encoded as play computes them, learned from, and computed anew after own guesses."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gamegen.config import to_dict
from gamegen.curation import encode
from gamegen.curation.encoded_clip import EncodedClip
from gamegen.device import autocast
from gamegen.media.mp4 import read_mp4
from gamegen.models.checkpoint import load_checkpoint, save_random
from gamegen.models.folding import from_pixels, unfold_frames, unfold_patches
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import MotionConfig
from gamegen.models.motion_compensation import (
    carry_stream,
    compensate,
    compensate_stream,
    no_latent,
    recent_operations,
    refer,
    shown_again,
)
from gamegen.models.network_inputs import Previous, Text
from gamegen.training.feed import Feed
from gamegen.training.latent_windows import LatentBatch
from gamegen.training.loop import Run
from gamegen.training.objectives.reconstruction import gradient_l1
from gamegen.training.objectives.wear import KINDS, wear
from gamegen.training.run_stage import run_stage
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.stage import Stage
from gamegen.training.window_plan import WindowPlan, index_clips
from tests.engine.test_world import random_model
from tests.footage_samples import panning_frames
from tests.training.samples import (
    SIZE,
    encoded_folder,
    encoded_row,
    latent_feed,
    panning_folder,
    plain_flow,
    stage,
    write_rows,
)

BUCKETS = (TrainingBucket(SIZE, 12),)


def moved_row(model: Model, seed: int, num_chunks: int = 20) -> dict:
    """An encoded row with what the model's motion network foresees."""
    row = encoded_row(seed, num_chunks)
    clip = EncodedClip.from_row(row)
    with torch.inference_mode():
        found = compensate_stream(model, random_frames(seed, num_chunks), clip.operations)
        carried = carry_stream(model, random_frames(seed, num_chunks), clip.operations)
    parts = {"compensated": found.latent, "confidence": found.confidence, "carried": carried}
    return row | {name: part.numpy().astype(np.float16).tobytes() for name, part in parts.items()}


def random_frames(seed: int, num_chunks: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (4 * num_chunks, 32, 32, 3), generator=generator, dtype=torch.uint8)


def feed(config: Stage, model: Model, data: Path) -> Feed:
    windows = config.windows(model.config)
    return Feed(WindowPlan(config, index_clips(data, "train", windows.length_column)), windows)


@pytest.fixture
def model() -> Model:
    return random_model(moves=True)


@pytest.fixture
def data(model: Model, tmp_path: Path) -> Path:
    return write_rows(tmp_path / "encoded", [moved_row(model, seed) for seed in range(3)])


def test_a_stream_is_compensated_chunk_by_chunk(model):
    operations, frames = EncodedClip.from_row(encoded_row(0)).operations.float(), random_frames(0, 20)
    with torch.inference_mode():
        whole = compensate_stream(model, frames, operations)
        recent = recent_operations(operations[None])[0]
        for i in range(1, len(operations)):
            one = compensate(model, from_pixels(frames[4 * i - 2 : 4 * i])[None], recent[i][None])
            torch.testing.assert_close(one.latent[0], whole.latent[i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.confidence[0], whole.confidence[i], rtol=1e-4, atol=1e-5)
    assert not whole.latent[0].any() and not whole.confidence[0].any()


def test_a_carried_stream_is_moved_from_chunk_to_chunk(model):
    operations, frames = EncodedClip.from_row(encoded_row(0)).operations.float(), random_frames(0, 20)
    with torch.inference_mode():
        whole, recent = carry_stream(model, frames, operations, 3), recent_operations(operations[None])[0]
        for i in range(1, 20):
            if (i - 1) % 3 == 0:
                shown = from_pixels(frames[4 * i - 2 : 4 * i])[None]
            found = refer(model, shown, recent[i][None])
            torch.testing.assert_close(whole[i], found.latent[0], rtol=1e-4, atol=1e-4)
            shown = unfold_frames(found.warped, 1)[:, -2:].clamp(-1, 1)
        fresh = compensate_stream(model, frames, operations).latent
        torch.testing.assert_close(carry_stream(model, frames, operations, 1), fresh, rtol=1e-4, atol=1e-4)
    assert not whole[0].any() and not torch.equal(whole, fresh)


def test_recent_operations_end_with_the_chunks_own():
    operations = torch.arange(1.0, 25).view(1, 6, 4, 1)
    recent = recent_operations(operations)[0, :, :, 0]
    assert recent[0].tolist() == [0] * 12 + [1, 2, 3, 4]
    assert recent[5].tolist() == [*range(9, 25)]
    within = recent_operations(operations[:, 3:], operations[:, :3])[0, :, :, 0]
    assert torch.equal(within, recent[3:])


def test_what_follows_a_guess_is_made_from_what_it_shows(model, tmp_path):
    """Beginnings of clips included: nothing was held before them."""
    data = write_rows(tmp_path, [moved_row(model, seed, num_chunks=6) for seed in range(16)])
    config = stage("instructnet", batch_size=32, buckets=BUCKETS)
    batch: LatentBatch = feed(config, model, data).example()
    assert batch.motion is not None and batch.starts.any() and not batch.starts.all()
    objective, rows = config.objective(model), torch.arange(len(batch.latents))
    with torch.inference_mode():
        latents, confidence = objective._follows(batch, rows, batch.latents)
        recent = recent_operations(batch.controls.operations, batch.motion.past_operations)
        none = no_latent(model).expand_as(batch.latents[0, 0])
        for i, j in itertools.product(range(4), range(2)):
            first = none if batch.starts[i] else batch.previous[i, 0]
            before = batch.latents[i, j - 1] if j else first
            shown = shown_again(model, batch.latents[i, j][None], before[None])
            found = compensate(model, shown, recent[i, j + 1][None])
            torch.testing.assert_close(latents[i, j], model.normalise(found.latent)[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(confidence[i, j], found.confidence[0], rtol=1e-4, atol=1e-4)


def test_networks_are_given_the_compensated_latents(model, data):
    config = stage(
        "instructnet", batch_size=4, buckets=BUCKETS, flow=plain_flow(text_to_video=0.0, worn_windows=0.0)
    )
    batch: LatentBatch = feed(config, model, data).example()
    assert batch.motion is not None
    inputs = config.objective(model).draw_inputs(batch, torch.Generator().manual_seed(0))
    assert torch.equal(inputs.previous.latent, batch.motion.compensated)
    assert inputs.previous.confidence is not None
    assert torch.equal(inputs.previous.confidence, batch.motion.confidence)


@pytest.mark.parametrize("kind", KINDS)
def test_wear_takes_detail_from_the_picture_and_leaves_its_colours(kind):
    torch.manual_seed(0)
    tiny = ModelConfig.tiny()
    model = Model(dataclasses.replace(tiny, vae=dataclasses.replace(tiny.vae, linear_encoder=True)))
    video = from_pixels(torch.from_numpy(panning_frames(24)))[None]
    model.vae.initialise_from_patches(video)
    with torch.inference_mode():
        latent = model.normalise(model.vae.encode(video)[0])
        amount = torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0, 1.0])
        worn = wear(model, latent, amount, kind)
        torch.testing.assert_close(worn[0], latent[0])
        torch.testing.assert_close(worn[1], (latent[1] + wear(model, latent, torch.ones(6), kind)[1]) / 2)
        before, after = (
            unfold_patches(model.vae.streaming.patch(model.denormalise(each[2:]))) for each in (latent, worn)
        )
    assert gradient_l1(after) < 0.8 * gradient_l1(before)
    torch.testing.assert_close(after.mean((2, 3)), before.mean((2, 3)), atol=0.1, rtol=0)


def test_the_share_of_the_windows_that_wears_is_drawn_and_still_moments_do_not(model, data):
    config = stage("instructnet", batch_size=4, buckets=BUCKETS, flow=plain_flow(worn_windows=1.0))
    batch: LatentBatch = feed(config, model, data).example()
    given = config.objective(model).draw_inputs(batch, torch.Generator().manual_seed(0)).previous.latent
    worn, carried = (given != batch.motion.compensated).flatten(1).any(1), given == batch.motion.carried
    assert worn.all() and 0 < carried.flatten(1).all(1).sum() < 4
    still = dataclasses.replace(batch, latents=batch.previous.clone(), starts=torch.zeros_like(batch.starts))
    given = config.objective(model).draw_inputs(still, torch.Generator().manual_seed(0)).previous.latent
    torch.testing.assert_close(given, batch.motion.compensated)


def test_a_model_that_learns_to_be_compensated_begins_as_it_was(tmp_path):
    moving = random_model(moves=True).config
    save_random(tmp_path, dataclasses.replace(ModelConfig.tiny(), motion=moving.motion, vae=moving.vae))
    before = load_checkpoint(tmp_path, "cpu").model
    (tmp_path / "tiny.yaml").write_text(json.dumps(to_dict(ModelConfig.tiny())))
    config = stage("instructnet", model=str(tmp_path / "tiny.yaml"), buckets=BUCKETS)
    after = config.build_model(tmp_path, tmp_path, tmp_path)
    x, level = torch.randn(2, 3, 4, 4, 4), torch.rand(2, 3)
    velocities = []
    for model, confidence in ((before, None), (after, torch.randn(2, 3, 1, 4, 4))):
        assert model.foundation is not None
        with torch.inference_mode():
            velocities.append(
                model.foundation(x, level, Previous(x, x, level, confidence), Text.none(2, 384))
            )
    assert after.config.foundation is not None and after.config.foundation.motion_compensation
    assert torch.equal(*velocities)
    as_it_was = dataclasses.replace(config, motion_compensation=False).build_model(
        tmp_path, tmp_path, tmp_path
    )
    assert as_it_was.config.foundation == before.config.foundation


@pytest.mark.parametrize("name", ["foundation", "instructnet", "turbo"])
def test_stages_train_with_motion(model, data, tmp_path, name):
    foundation = None if name == "foundation" else model.config.foundation
    instructnet = None if name == "foundation" else model.config.instructnet
    sizes = dataclasses.replace(model.config, foundation=foundation, instructnet=instructnet)
    save_random(tmp_path / "init", sizes)
    (tmp_path / "tiny.yaml").write_text(json.dumps(to_dict(ModelConfig.tiny())))
    encode.write_statistics(data)
    config = stage(
        name,
        model=str(tmp_path / "tiny.yaml"),
        steps=2,
        buckets=BUCKETS,
        flow=plain_flow(scheduled_sampling=1.0, scheduled_sampling_start=0.0),
    )
    run_stage(config, data, Run(output=tmp_path / "run", show_progress=False), init=tmp_path / "init")
    trained, before = (load_checkpoint(tmp_path / folder, "cpu").model for folder in ("run", "init"))
    assert trained.foundation is not None and trained.foundation.config.motion_compensation
    kept = before.state_dict()
    for part, weight in trained.state_dict().items():
        if part.startswith(("motion.", "vae.")):
            assert torch.equal(weight, kept[part]), part


def test_clips_that_were_encoded_without_motion_are_refused(model, tmp_path):
    config = stage("instructnet", buckets=BUCKETS)
    with pytest.raises(ValueError, match="was encoded without a motion network: encode the clips with"):
        feed(config, model, encoded_folder(tmp_path)).example()
    assert latent_feed(config, encoded_folder(tmp_path / "more")).example().motion is None


def test_what_uses_motion_needs_a_motion_network():
    foundation = random_model(moves=True).config.foundation
    with pytest.raises(
        ValueError, match=r"foundation\.motion_compensation is true, but there is no motion network"
    ):
        dataclasses.replace(ModelConfig.tiny(), foundation=foundation)


def test_encoding_with_a_motion_network_keeps_what_it_foresees(tmp_path):
    vae = dataclasses.replace(random_model(moves=True).config.vae, streaming_reference=False)
    sizes = dataclasses.replace(ModelConfig.tiny(), vae=vae, foundation=None, instructnet=None)
    save_random(tmp_path / "vae", sizes)
    save_random(tmp_path / "motion", dataclasses.replace(sizes, motion=MotionConfig.tiny()))
    curated = panning_folder(tmp_path / "curated")
    plain, moving = (encode.Encoder(str(tmp_path / name), "cpu") for name in ("vae", "motion"))
    assert plain.vae_sha256 != moving.vae_sha256
    (part, *_) = encode.shards.part_files(curated)
    for name, encoder in (("plain", plain), ("moving", moving)):
        encoder.encode_part(part, tmp_path / name)
    found = []
    for name in ("plain", "moving"):
        (row, *_) = encode.pq.read_table(tmp_path / name).to_pylist()
        found.append(EncodedClip.from_row(row))
    assert found[0].compensated is None
    clip = found[1]
    assert clip.compensated is not None and clip.confidence is not None
    assert clip.compensated.shape == clip.latents.shape
    frames = torch.from_numpy(read_mp4(encode.pq.read_table(part).to_pylist()[0]["video"]))
    with torch.inference_mode(), autocast(moving.model.device):
        expected = compensate_stream(moving.model, frames[: 4 * clip.num_chunks], clip.operations)
    torch.testing.assert_close(clip.compensated.float(), expected.latent, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(clip.confidence.float(), expected.confidence, rtol=2e-2, atol=2e-2)


def test_a_validation_says_how_much_the_keys_matter(model, data):
    """How much larger the loss is under the keys of other windows; 1 where a network does not look at them."""
    config = stage("instructnet", batch_size=4, buckets=BUCKETS, flow=plain_flow(text_to_video=0.0))
    batch = feed(config, model, data).example()
    objective = config.objective(model)

    def ratio() -> float:
        with torch.no_grad():
            return objective.loss(batch, torch.Generator().manual_seed(0), 0.0)[1]["shuffle_ratio"]

    assert abs(ratio() - 1) > 1e-6
    assert model.instructnet is not None
    for block in model.instructnet.blocks:
        for parameter in block.parameters():
            torch.nn.init.zeros_(parameter)
    assert ratio() == pytest.approx(1, abs=1e-6)
    assert "shuffle_ratio" not in objective.loss(batch, torch.Generator().manual_seed(0), 0.0)[1]
