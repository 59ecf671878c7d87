"""Videos of strangers: every kind that is read, and what is said of those that are not."""

from __future__ import annotations

import io
import random
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from gamegen.media import video_file
from gamegen.media.untrusted import count_frames, open_video, read_frames
from tests.picture_samples import mp4_bytes
from tests.serving import png

SIZE = (96, 64)


def clip(num_frames: int = 40) -> np.ndarray:
    """Each frame of another grey, with a white corner at its upper left."""
    frames = np.repeat(np.linspace(0, 200, num_frames).astype(np.uint8), 64 * 96 * 3)
    frames = frames.reshape(num_frames, 64, 96, 3)
    frames[:, :32, :32] = 255
    return frames


def encoded(frames: np.ndarray, codec: str, container: str, fps: int = 24) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def nearest(found: np.ndarray, frames: np.ndarray) -> list[int]:
    """Which of the frames each of those found is."""
    grey = frames[:, 40:, 40:].mean((1, 2, 3))
    return [int(np.abs(picture[40:, 40:].mean() - grey).argmin()) for picture in found]


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("libx264", "mp4"),
        ("libx264", "matroska"),
        ("libvpx", "webm"),
        ("libvpx-vp9", "webm"),
        ("mpeg4", "mp4"),
    ],
)
@pytest.mark.parametrize("fps", [12, 24, 30, 60])
def test_any_frame_rate_is_shown_at_24(codec, container, fps):
    frames = clip(24)
    file = encoded(frames, codec, container, fps)
    num_frames = round(24 * 24 / fps)
    assert count_frames(file) == num_frames
    shown = [min(int((k + 0.5) * fps / 24), 23) for k in range(num_frames)]
    assert nearest(read_frames(file, SIZE, 1000), frames) == shown
    assert nearest(read_frames(file, SIZE, 7), frames) == shown[-7:]


def test_the_end_is_the_same_wherever_decoding_began():
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 96, 3), np.uint8)
    file = encoded(noise, "libx264", "mp4")
    whole = read_frames(file, SIZE, 60)
    for most in (1, 5, 30):
        np.testing.assert_array_equal(read_frames(file, SIZE, most), whole[-most:])
    # Of several key frames the last one before is where it begins.
    entries = [open_video(mp4)._outline.entry(2.0) for mp4 in (file, keyed(noise))]
    assert entries == [0, 40]


def keyed(frames: np.ndarray) -> bytes:
    """With a key frame every ten."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=24, options={"g": "10", "bf": "0", "sc_threshold": "0"})
        stream.height, stream.width = frames.shape[1:3]
        for pixels in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


def test_a_picture_is_scaled_and_cropped_and_turned_upright():
    file = mp4_bytes(clip())
    assert read_frames(file, (48, 48), 4).shape == (4, 48, 48, 3)
    assert read_frames(file, (320, 240), 4).shape == (4, 240, 320, 3)
    upright = read_frames(turned(file), (64, 96), 1)[0]
    # The corner that was at the upper left is at the upper right.
    assert upright[:30, -30:].min() > 240 > upright[:30, :30].max()


def turned(mp4: bytes) -> bytes:
    """As a phone writes it that was held upright: to be turned by a quarter, clockwise."""
    lying = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    held = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    place = mp4.index(lying, mp4.index(b"tkhd"))
    return mp4[:place] + held + mp4[place + len(held) :]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", [("libx264", "mp4"), ("libvpx", "webm")])
def test_a_part_of_a_file_is_refused(kind, share):
    file = encoded(np.random.default_rng(0).integers(0, 256, (48, 32, 48, 3), np.uint8), *kind)
    with pytest.raises(ValueError, match="send a complete MP4 or WebM file"):
        read_frames(file[: int(share * len(file))], SIZE, 100)


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"no video at all" * 100,
        png(64, 64),
        # What FFmpeg would otherwise open, and with it files and addresses of its own choice.
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        encoded(clip(4), "mpeg4", "avi"),
        encoded(clip(4), "ffv1", "matroska"),
    ],
    ids=["empty", "text", "picture", "list", "playlist", "container", "codec"],
)
def test_what_is_no_video_that_is_known_is_refused(file):
    with pytest.raises(ValueError, match="send a complete MP4 or WebM file with H"):
        count_frames(file)


@pytest.mark.parametrize(
    ("file", "limits", "says"),
    [
        (mp4_bytes(clip()), {"max_bytes": 1000}, "bytes, at most 1000 are read"),
        (mp4_bytes(clip()), {"max_s": 1}, "is 1.7 s long and the limit is 1"),
        (encoded(clip(31), "libx264", "mp4", 1), {}, "is 31.0 s long and the limit is 30"),
        (encoded(np.zeros((1801, 16, 16, 3), np.uint8), "libx264", "mp4", 120), {}, "over 1800 frames"),
        (mp4_bytes(np.zeros((2, 1600, 1600, 3), np.uint8)), {}, "is 1600x1600, at most 2073600 pixels"),
    ],
    ids=["bytes", "seconds", "long", "frames", "pixels"],
)
def test_what_is_too_large_is_refused_before_it_is_decoded(file, limits, says, monkeypatch):
    monkeypatch.setattr(video_file, "_decoded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=says):
        read_frames(file, SIZE, 100, **limits)


def test_a_strip_is_not_blown_up():
    with pytest.raises(ValueError, match="1600x16 is a strip: crop it to about 96x64"):
        read_frames(mp4_bytes(np.zeros((4, 16, 1600, 3), np.uint8)), SIZE, 4)


@pytest.mark.parametrize("kind", [("libx264", "mp4"), ("libvpx", "webm")])
def test_a_damaged_file_is_refused_or_read(kind):
    file, rng = encoded(clip(12), *kind), random.Random(0)
    num_refused = 0
    for _ in range(200):
        damaged = bytearray(file)
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(min(1500, len(file)))] = rng.randrange(256)
        try:
            assert read_frames(bytes(damaged), SIZE, 100).shape[1:] == (64, 96, 3)
        except ValueError as error:
            num_refused += 1
            assert len(str(error)) < 200
    assert 20 < num_refused < 200
