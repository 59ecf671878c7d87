"""What a world goes on from: a picture or the end of a video, the same each time."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from gamegen.controls import Control
from gamegen.engine.engine import WorldEngine
from gamegen.engine.snapshot import WorldSnapshot
from gamegen.media import first_frames
from gamegen.media.first_frames import check_video, read_first_frames
from gamegen.media.images import encode_jpegs
from gamegen.media.kinds import is_image
from gamegen.models.opening import Opening
from tests.engine.test_world import random_model, words
from tests.picture_samples import mp4_bytes
from tests.serving import png

SIZE = (32, 32)


@functools.cache
def video(num_frames: int, seed: int = 0) -> bytes:
    """A moving picture of coarse noise; the same file each time, which encoding it again need not give."""
    coarse = np.random.default_rng(seed).integers(0, 256, (num_frames, 4, 4, 3), np.uint8)
    return mp4_bytes(coarse.repeat(8, 1).repeat(8, 2), crf=5)


def test_a_picture_is_a_chunk_of_four_equal_frames():
    frames = read_first_frames(png(64, 48, (200, 90, 20)), SIZE, 7)
    assert frames.shape == (4, 32, 32, 3) and (frames == (200, 90, 20)).all()


@pytest.mark.parametrize(
    ("num_frames", "most", "kept"), [(4, 7, 4), (11, 7, 8), (40, 7, 28), (300, 100, 240)]
)
def test_of_a_video_the_last_whole_chunks_count(num_frames, most, kept):
    file = video(num_frames)
    frames = read_first_frames(file, SIZE, most)
    assert frames.shape == (kept, 32, 32, 3)
    np.testing.assert_array_equal(frames, read_first_frames(file, SIZE, 1000)[-kept:])
    assert kept <= 4 * first_frames.MAX_FIRST_CHUNKS


def test_a_file_is_known_by_how_it_begins():
    jpeg = encode_jpegs(np.zeros((1, 16, 16, 3), np.uint8))[0]
    assert is_image(png(8, 8)) and is_image(jpeg) and is_image(b"RIFF\0\0\0\0WEBPVP8 ")
    assert not is_image(video(4)) and not is_image(b"RIFF\0\0\0\0AVI ")
    check_video(video(4))
    with pytest.raises(ValueError, match="is a picture: give it as the image"):
        check_video(png(8, 8))
    for read in (check_video, lambda file: read_first_frames(file, SIZE, 7)):
        with pytest.raises(ValueError, match="has 3 frames at 24 a second: send at least 4, or a picture"):
            read(video(3))


def begun(file: bytes | None, session_id: str = "a") -> WorldEngine:
    engine = WorldEngine(random_model())
    opening = (
        None
        if file is None
        else Opening.of_frames(read_first_frames(file, engine.size, engine.history), engine.model)
    )
    engine.open(session_id, words(1), 3, opening)
    return engine


def play(engine: WorldEngine, num_chunks: int = 4) -> np.ndarray:
    return np.stack([engine.step({"a": Control({"w"}).operations()})["a"] for _ in range(num_chunks)])


@pytest.mark.parametrize(
    ("file", "num_chunks"),
    [(video(40), 7), (video(9), 2), (png(40, 40), 1)],
    ids=["long", "short", "picture"],
)
def test_a_world_goes_on_from_it_alike_each_time(file, num_chunks):
    first, again = begun(file), begun(file)
    assert first.version("a") == num_chunks
    np.testing.assert_array_equal(play(first), play(again))


def test_what_a_world_begins_with_is_seen_in_it():
    chunks = [play(begun(file)).astype(float) for file in (None, video(28), video(28, seed=1), png(32, 32))]
    for i, one in enumerate(chunks):
        for other in chunks[i + 1 :]:
            assert np.abs(one - other).max() > 1e-2


def test_a_world_remembers_no_more_than_it_is_given():
    """Chunks before the last ones that it remembers would change nothing."""
    engine = begun(None)
    latents = engine.model.encode(read_first_frames(video(60), SIZE, 15))
    chunks = []
    for latent in (latents, latents[-engine.history :]):
        engine.open("a", words(1), 3, Opening(latent))
        chunks.append([chunk.latent for chunk in engine.snapshot("a").chunks])
    assert len(chunks[0]) == engine.history
    assert all(one.equal(other) for one, other in zip(*chunks, strict=True))


@pytest.mark.parametrize("played", [0, 1, 5, 12])
def test_a_restored_world_goes_on_as_one_that_was_never_moved(played):
    engine, other = begun(video(28)), WorldEngine(random_model())
    if played:
        play(engine, played)
    other.restore("a", WorldSnapshot.from_bytes(engine.snapshot("a").to_bytes()))
    assert other.version("a") == 7 + played
    np.testing.assert_array_equal(play(other), play(engine))
