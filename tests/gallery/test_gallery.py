"""Galleries: what they are built of, which start is chosen, and that worlds begun from one go on exactly."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from gamegen.controls import Control
from gamegen.curation import shards
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.gallery.build import GalleryConfig, build_gallery, score_picture
from gamegen.gallery.gallery import MAX_GALLERY_BYTES, Gallery, UnknownStartError
from gamegen.gallery.opening import find_gallery, mirrored, start_opening
from gamegen.media.images import decode_image
from gamegen.media.mp4 import read_mp4
from gamegen.media.recorded_start import RecordedStart, is_recorded_start
from gamegen.models.checkpoint import WEIGHTS_FOLDER, load_checkpoint, save_checkpoint
from gamegen.models.digests import latents_sha256
from gamegen.models.text import TextEncoder, compose_prompt, load_text_encoder
from gamegen.replay.replay import draw
from gamegen.sessions.log import SessionLog, WorldSpec
from gamegen.sessions.log_file import from_json, to_json
from gamegen.sessions.start import StartFacts
from gamegen.world import World
from tests.engine.test_world import random_model
from tests.gallery.samples import CARD, encoded_rows, random_start, tiny_gallery, write_clips, write_encoded
from tests.picture_samples import png

FORWARD = Control({"w"})


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_text_encoder("minilm")


@pytest.fixture(scope="module")
def gallery(encoder, tmp_path_factory) -> Gallery:
    return tiny_gallery(tmp_path_factory.mktemp("encoded"), random_model(), encoder)


@pytest.fixture
def world(encoder, gallery) -> World:
    return World(WorldEngine(random_model(), EngineConfig(max_sessions=1)), encoder, gallery)


def choose(gallery: Gallery, encoder: TextEncoder, prompt: str, perspective: str, seed: int) -> RecordedStart:
    vector = encoder.encode([compose_prompt(prompt, perspective)])[0].pooled.numpy()
    return gallery.choose(vector, perspective, seed)


def test_it_holds_moments_of_all_training_clips_and_of_no_others(gallery):
    assert {entry.clip_id for entry in gallery.entries} == {"clip-0", "clip-1", "clip-2", "clip-3"}
    first_of_each_world = {entry.clip_id[:6] for entry in gallery.entries[:4]}
    assert first_of_each_world == {"clip-0", "clip-1", "clip-2", "clip-3"}
    assert all(
        entry.perspective == ("first", "third")[int(entry.clip_id[-1]) % 2] for entry in gallery.entries
    )
    assert (gallery.card["split"], gallery.card["worlds"], gallery.card["clips"]) == ("train", 2, 4)
    assert gallery.credit == "a game of ours (CC0-1.0)"


def test_its_latents_are_those_of_the_clips(gallery, encoder):
    model = random_model()
    entry = gallery.entries[0]
    row = next(row for row in encoded_rows(model, encoder) if row["clip_id"] == entry.clip_id)
    latents = np.frombuffer(row["latents"], np.float16).reshape(-1, 4, 4, 4)
    recorded = model.normalise(
        torch.from_numpy(latents[entry.chunk - 1 : entry.chunk + 1].astype(np.float32))
    )
    kept = gallery.start(entry.id).dequantised()
    assert np.abs(kept - recorded.numpy()).max() <= recorded.abs().max().item() / 127


def test_a_saved_gallery_is_read_again_and_a_damaged_one_is_refused(gallery, tmp_path):
    gallery.save(tmp_path)
    again = Gallery.load(tmp_path)
    assert again.entries == gallery.entries and again.pictures == gallery.pictures
    np.testing.assert_array_equal(again.latents, gallery.latents)
    np.testing.assert_array_equal(again.vectors, gallery.vectors)
    assert json.loads((tmp_path / "card.json").read_text())["starts"] == len(gallery.entries)
    file = tmp_path / "gallery.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(ValueError, match="damaged"):
        Gallery.load(tmp_path)
    with pytest.raises(ValueError, match="gamegen gallery build"):
        Gallery.load(tmp_path / "none")


def test_clips_of_another_vae_are_refused(encoder, tmp_path):
    rows = [{**row, "vae_sha256": "0" * 64} for row in encoded_rows(random_model(), encoder)]
    with pytest.raises(ValueError, match="encode the clips with this model"):
        build_gallery(write_encoded(tmp_path, rows), tmp_path, random_model(), CARD)
    with pytest.raises(FileNotFoundError, match="gamegen encode"):
        build_gallery(tmp_path / "none", tmp_path, random_model(), CARD)


def test_clips_that_are_not_among_the_curated_ones_are_named(encoder, tmp_path):
    data = write_encoded(tmp_path / "encoded", encoded_rows(random_model(), encoder))
    with pytest.raises(ValueError, match="clip-3 is not among the curated clips"):
        build_gallery(data, write_clips(tmp_path / "curated", 3), random_model(), CARD)


def test_a_world_goes_on_from_the_frame_that_was_recorded(world, gallery, encoder, tmp_path):
    """Not from what its latents decode to, unless the gallery is of a time when it kept no frames."""
    start = gallery.start(gallery.entries[1].id, seed=1)
    clip, chunk = gallery.entries[1].clip_id, gallery.entries[1].chunk
    rows = shards.read_rows(write_clips(tmp_path), ["clip_id", "video"])
    (video,) = (row["video"] for row in rows if row["clip_id"] == clip)
    recorded = read_mp4(video)[4 * chunk + 3]
    shown = start_opening(start, world.engine.model).shown
    assert shown is not None and shown.shape == (2, 32, 32, 3) and torch.equal(shown[0], shown[1])
    seen = shown[1].numpy()[:, ::-1] if start.mirrored else shown[1].numpy()
    assert np.abs(seen.astype(int) - recorded).mean() < 12
    old = dataclasses.replace(gallery, card={k: v for k, v in gallery.card.items() if k != "picture_size"})
    bare = old.start(start.id, seed=1)
    assert bare.picture is None and start_opening(bare, world.engine.model).shown is None
    model = random_model(moves=True)
    moving = World(WorldEngine(model, EngineConfig(max_sessions=1)), encoder)
    frames = []
    for each in (start, bare):
        moving.reset("forest", 1, start=dataclasses.replace(each, latents_sha256=latents_sha256(model)))
        assert torch.equal(moving.snapshot().shown, shown) == (each is start)
        frames.append(moving.step(FORWARD))
    assert (frames[0] != frames[1]).any()


def test_a_world_goes_on_from_the_picture_itself(encoder):
    moving = World(WorldEngine(random_model(moves=True), EngineConfig(max_sessions=1)), encoder)
    picture = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    moving.reset("forest", first_frames=picture)
    np.testing.assert_array_equal(moving.snapshot().shown, picture[-2:])


def test_moments_that_look_alike_are_kept_once(encoder, tmp_path):
    rows = encoded_rows(random_model(), encoder)
    one = rows[0]["latents"][: 2 * 4**3 * 2] * (rows[0]["num_chunks"] // 2)
    data = write_encoded(tmp_path / "encoded", [{**row, "latents": one} for row in rows])
    built = build_gallery(data, write_clips(tmp_path / "curated"), random_model(), CARD)
    assert len(built.entries) == 1


def test_uniform_dark_and_bright_pictures_are_left_out():
    config, rng = GalleryConfig(), np.random.default_rng(0)
    scenery = np.concatenate([np.full((32, 96, 3), 200), rng.integers(0, 200, (32, 96, 3))]).astype(np.uint8)
    assert score_picture(scenery, config) is not None
    for picture in (np.full_like(scenery, 90), scenery // 20, 255 - scenery // 30):
        assert score_picture(picture, config) is None


def test_the_prompt_chooses_the_scene_and_the_seed_one_of_its_moments(gallery, encoder):
    chosen = [choose(gallery, encoder, "a desert", "third", seed) for seed in range(20)]
    assert {start.id[:6] for start in chosen} == {"clip-3"}
    assert len({start.id for start in chosen}) > 1
    assert {start.mirrored for start in chosen} == {False, True}
    again = [choose(gallery, encoder, "a desert", "third", seed) for seed in range(20)]
    assert [start.to_bytes() for start in again] == [start.to_bytes() for start in chosen]
    # The player's hand is on the right in first person.
    first = [choose(gallery, encoder, "forest in the snow", "first", seed) for seed in range(20)]
    assert {(start.id[:6], start.mirrored) for start in first} == {("clip-0", False)}
    with pytest.raises(UnknownStartError, match="no start 'nowhere'"):
        gallery.start("nowhere")


def test_captions_that_name_a_side_are_not_mirrored(gallery):
    entries = tuple(dataclasses.replace(e, caption="a tree on the left") for e in gallery.entries)
    sided = dataclasses.replace(gallery, entries=entries)
    assert not any(sided.start(entries[1].id, seed).mirrored for seed in range(20))


def test_a_start_file_is_read_again_and_others_are_refused():
    start = random_start(random_model(), mirrored=True)
    assert start.frame() is None and RecordedStart.from_bytes(start.to_bytes()).picture is None
    start = dataclasses.replace(start, picture=png(32, 24))
    data = start.to_bytes()
    assert is_recorded_start(data) and not is_recorded_start(b"\x89PNG\r\n\x1a\n")
    again = RecordedStart.from_bytes(data)
    assert (again.id, again.mirrored, again.credit) == (start.id, True, start.credit)
    np.testing.assert_array_equal(again.dequantised(), start.dequantised())
    np.testing.assert_array_equal(again.frame(), decode_image(png(32, 24)))
    with pytest.raises(ValueError, match="the image cannot be read"):
        RecordedStart.from_bytes(dataclasses.replace(start, picture=b"RIFF....WEBP").to_bytes())
    assert StartFacts.of(data) == StartFacts("gallery", start.id, "a meadow", "a game of ours (CC0-1.0)")
    for wrong in (data[:60], data[:-1], data[:8] + b'{"a": 1}' + data[16:], b"\0" * (1 << 21)):
        with pytest.raises(ValueError, match="gallery"):
            RecordedStart.from_bytes(wrong)


def test_mirroring_swaps_left_and_right():
    model = load_checkpoint("nano").model
    frames = np.zeros((8, 96, 160, 3), np.uint8)
    frames[:, :, :80] = 200
    swapped = mirrored(model.encode(frames), model)
    # The two halves of a picture with a hard edge in the middle.
    assert torch.nn.functional.mse_loss(swapped, model.encode(frames[:, :, ::-1].copy())) < 0.02


def test_worlds_of_different_seeds_differ_and_those_of_one_seed_do_not(world, gallery):
    start = gallery.start(gallery.entries[0].id)
    drawn = []
    for seed in (1, 1, 2):
        assert world.reset("forest", seed, start=start) is start
        drawn.append((world.engine.snapshot(world.SESSION).chunks, world.step(FORWARD)))
    (same, frames), (again, frames_again), (other, other_frames) = drawn
    np.testing.assert_array_equal(frames, frames_again)
    assert torch.equal(same[0].latent, other[0].latent) and not torch.equal(same[1].latent, other[1].latent)
    assert (frames != other_frames).any()
    # Varied, not replaced.
    recorded = start_opening(start, world.engine.model).latents[1]
    assert (other[1].latent.float() - recorded).abs().mean() < 0.5 * recorded.abs().mean()
    assert torch.equal(same[1].latent, again[1].latent)


def test_replayed_is_what_was_played_and_the_log_needs_no_gallery(world, encoder):
    recorded = world.reset("snow", 5, "third")
    assert recorded is not None
    played = np.stack([world.step(FORWARD) for _ in range(5)])
    spec = WorldSpec(
        model="tiny",
        prompt="snow",
        perspective="third",
        seed=5,
        width=32,
        height=32,
        first_frames=recorded.to_bytes(),
    )
    log = from_json(to_json(SessionLog(spec, [FORWARD] * 5)))
    bare = World(WorldEngine(random_model(), EngineConfig(max_sessions=1)), encoder)
    np.testing.assert_array_equal(np.stack([*draw(bare, log)]), played)


def test_an_old_log_of_a_drawn_world_is_drawn_although_there_is_a_gallery(world):
    spec = WorldSpec(model="tiny", prompt="snow", perspective="third", seed=5, width=32, height=32)
    text = to_json(SessionLog(spec, [FORWARD] * 2)).replace(', "gallery": null', "")
    assert "gallery" not in text
    replayed = np.stack([*draw(world, from_json(text))])
    assert world.reset("snow", 5, "third", start="drawn") is None
    np.testing.assert_array_equal(replayed, np.stack([world.step(FORWARD) for _ in range(2)]))


@pytest.mark.parametrize("after", [0, 1, 3])
def test_restored_goes_on_as_if_it_had_never_moved(world, encoder, after):
    world.reset("snow", 5, "third")
    for _ in range(after):
        world.step(FORWARD)
    other = World(WorldEngine(random_model(), EngineConfig(max_sessions=1)), encoder)
    other.restore(world.snapshot())
    for _ in range(4):
        np.testing.assert_array_equal(other.step(FORWARD), world.step(FORWARD))


def test_the_default_is_the_picture_then_the_gallery_then_drawn(world, encoder):
    picture = np.full((4, 32, 32, 3), 90, np.uint8)
    assert world.reset("snow") is not None
    assert world.reset("snow", first_frames=picture) is None
    assert len(world.engine.snapshot(world.SESSION).chunks) == 1
    with pytest.raises(ValueError, match="give the picture"):
        world.reset("snow", start="picture")
    with pytest.raises(ValueError, match="a picture or video is given too"):
        world.reset("snow", first_frames=picture, start="gallery")
    bare = World(WorldEngine(random_model(), EngineConfig(max_sessions=1)), encoder)
    assert bare.reset("snow") is None and not bare.engine.snapshot(bare.SESSION).chunks
    with pytest.raises(ValueError, match="has no gallery"):
        bare.reset("snow", start="gallery")


def test_a_gallery_is_found_by_the_vae_of_its_latents(gallery, tmp_path):
    model = random_model()
    save_checkpoint(tmp_path, model.config, model.state_dict(), {})
    assert find_gallery(model, tmp_path) is None
    gallery.save(tmp_path / "gallery")
    found = find_gallery(load_checkpoint(tmp_path).model, tmp_path)
    assert found is not None and found.entries == gallery.entries
    other = random_model()
    with torch.no_grad():
        other.vae.encoder.patch.bias += 1
    assert find_gallery(other, tmp_path) is None
    with pytest.raises(ValueError, match="another VAE"):
        start_opening(gallery.start(gallery.entries[0].id), other)


def test_the_shipped_gallery_fits_nano_and_the_package():
    shipped = find_gallery(load_checkpoint("nano").model, "nano")
    assert shipped is not None and shipped.card["split"] == "train"
    assert (WEIGHTS_FOLDER / "gallery" / "gallery.safetensors").stat().st_size <= MAX_GALLERY_BYTES
    assert {entry.perspective for entry in shipped.entries} == {"first", "third"}
