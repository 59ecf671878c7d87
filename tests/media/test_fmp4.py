"""Chunks as fragments of MP4: they play one after another, any may be missing, and none depends on those before."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from gamegen.media.fmp4 import CODEC, encode_chunk, split_init


def chunk(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Four frames of a soft pattern that moves, `uint8 (4, H, W, 3)`; other numbers are elsewhere in it."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = np.stack([np.sin(x / 9 + 0.3 * (4 * number + t)) + np.cos(y / 7) for t in range(4)])
    return (127 + waves[..., None] * (50, 45, 25)).astype(np.uint8)


def files(count: int, width: int = 64, height: int = 48) -> list[bytes]:
    return [encode_chunk(chunk(n, width, height), 4 * n) for n in range(count)]


def stream(parts: list[bytes]) -> bytes:
    """One init segment and the fragments of some files."""
    return split_init(parts[0])[0] + b"".join(split_init(part)[1] for part in parts)


def decoded(file: bytes) -> tuple[list[int], np.ndarray]:
    """Time stamps in frames, and pixels."""
    with av.open(io.BytesIO(file)) as container:
        assert container.streams.video[0].time_base.denominator == 24
        frames = list(container.decode(video=0))
    return [frame.pts for frame in frames], np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize("width, height", [(64, 48), (160, 96), (256, 144), (32, 32), (1280, 720)])
def test_fragments_play_one_after_another_as_what_was_drawn(width, height):
    times, pixels = decoded(stream(files(3, width, height)))
    assert times == list(range(12))
    assert psnr_db(pixels, np.concatenate([chunk(n, width, height) for n in range(3)])) > 35


def test_any_chunk_may_be_missing_and_any_may_be_the_first():
    parts = files(5)
    _, whole = decoded(stream(parts))
    for missing in range(5):
        times, pixels = decoded(stream(parts[:missing] + parts[missing + 1 :]))
        kept = [i for i in range(20) if i // 4 != missing]
        assert times == kept
        np.testing.assert_array_equal(pixels, whole[kept])


def test_a_chunk_s_bytes_are_the_same_whatever_was_coded_before():
    forward = files(6)
    assert [encode_chunk(chunk(n), 4 * n) for n in reversed(range(6))] == forward[::-1]
    other = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    for _ in range(3):
        encode_chunk(other, 0)
        assert encode_chunk(chunk(2), 8) == forward[2]


def test_the_init_segment_is_one_for_all_chunks_of_a_size():
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    of_64x48 = {
        split_init(part)[0] for part in [*files(4), encode_chunk(noise, 4), encode_chunk(noise * 0, 0)]
    }
    assert len(of_64x48) == 1
    assert split_init(files(1, 32, 32)[0])[0] not in of_64x48


def test_the_name_that_browsers_are_asked_for_is_that_of_the_stream():
    for width, height in ((32, 32), (1280, 720)):
        init, _ = split_init(files(1, width, height)[0])
        configuration = init[init.index(b"avcC") + 4 :]
        assert f"avc1.{configuration[1:4].hex()}" == CODEC


def test_nothing_is_sent_that_nobody_decodes():
    """x264 would put its version and options, 600 bytes, before each first picture."""
    init, fragment = split_init(files(1)[0])
    assert b"x264" not in init + fragment
    assert len(fragment) < len(encode_chunk(chunk(0), 0, crf=10))
    sample = fragment.index(b"mdat") + 4
    assert fragment[sample + 4] & 31 == 5, "the first unit is the picture that needs no other"


def test_a_long_session_s_time_does_not_run_over():
    sequence = 2**32 - 4
    (times, _) = decoded(encode_chunk(chunk(0), sequence))
    assert times == [sequence + i for i in range(4)]


@pytest.mark.parametrize(
    "frames, says",
    [
        (np.zeros((4, 48, 63, 3), np.uint8), "63x48 as H.264: use an even width"),
        (np.zeros((4, 48, 64, 3), np.float32), "uint8 frames"),
        (np.zeros((0, 48, 64, 3), np.uint8), "at least one"),
    ],
)
def test_what_cannot_be_coded_is_named(frames, says):
    with pytest.raises(ValueError, match=says):
        encode_chunk(frames, 0)


@pytest.mark.parametrize("file", [b"", b"\xff\xd8 a JPEG file", bytes(64)])
def test_what_is_no_fragmented_mp4_is_refused(file):
    with pytest.raises(ValueError, match="at byte 0 there is no ftyp box"):
        split_init(file)
    init, _ = split_init(files(1)[0])
    with pytest.raises(ValueError, match="there is no moov box"):
        split_init(init[:24] + file)
