"""MP4 files: round trips, what is written, and what the errors say."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from gamegen.media.footage import Footage
from gamegen.media.mp4 import Mp4Writer, encode_mp4, read_mp4, write_mp4
from tests.footage_samples import panning_frames
from tests.picture_samples import moving_square, mp4_bytes


def test_mp4_round_trip(tmp_path):
    clip = moving_square()
    write_mp4(tmp_path / "clip.mp4", clip)
    back = read_mp4(tmp_path / "clip.mp4")
    assert back.shape == clip.shape
    assert np.abs(back.astype(int) - clip).mean() < 6
    assert read_mp4(tmp_path / "clip.mp4", max_frames=3).shape[0] == 3


def test_mp4_is_h264_at_24_fps():
    with av.open(io.BytesIO(mp4_bytes(moving_square()))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 24


def test_mp4_wants_even_sizes_and_uint8(tmp_path):
    with pytest.raises(ValueError, match="even width"):
        write_mp4(tmp_path / "x.mp4", moving_square(width=63))
    with pytest.raises(ValueError, match="uint8 frames"):
        write_mp4(tmp_path / "x.mp4", moving_square().astype(np.float32))
    with pytest.raises(ValueError, match="at least one"):
        write_mp4(tmp_path / "x.mp4", moving_square()[:0])


def test_unreadable_video_names_the_file(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"bad\.mp4"):
        read_mp4(tmp_path / "bad.mp4")


@pytest.mark.parametrize(("pixel_format", "tolerance"), [("yuv420p", 6.0), ("yuv444p", 3.0)])
def test_a_clip_survives_the_round_trip_through_memory(pixel_format: str, tolerance: float) -> None:
    frames = panning_frames(16)
    back = read_mp4(encode_mp4(frames, 24, pixel_format=pixel_format))
    assert back.shape == frames.shape
    error = back.astype(float) - frames
    assert np.abs(error).mean() < tolerance
    assert np.abs(error.mean((0, 1, 2))).max() < 2.0, "the colours shifted"


def test_reading_can_stop_early() -> None:
    assert len(read_mp4(encode_mp4(panning_frames(16), 24), max_frames=3)) == 3


def test_broken_data_says_so(tmp_path) -> None:
    data = encode_mp4(panning_frames(8), 24)
    for broken in (b"", b"not a video", data[: len(data) // 2]):
        with pytest.raises(ValueError, match="cannot decode the clip"):
            read_mp4(broken)
    with pytest.raises(ValueError, match="cannot decode the clip"):
        read_mp4(tmp_path / "missing.mp4")


def test_only_pictures_are_encoded() -> None:
    with pytest.raises(ValueError, match="uint8 frames"):
        encode_mp4(np.zeros((4, 16, 16), np.uint8), 24)


def test_footage_counts_at_24_frames_a_second(tmp_path):
    clip = moving_square(10)
    for fps, shown in ((24, range(10)), (30, [0, 1, 3, 4, 5, 6, 8, 9]), (12, sorted([*range(10)] * 2))):
        write_mp4(tmp_path / "clip.mp4", clip, fps=fps)
        stored, footage = read_mp4(tmp_path / "clip.mp4"), Footage(tmp_path / "clip.mp4")
        assert len(stored) == 10 and (footage.size, footage.num_frames) == ((64, 48), len(shown))
        np.testing.assert_array_equal(np.stack([*footage.frames()]), stored[[*shown]])


def test_a_recording_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), Mp4Writer.open(tmp_path / "clip.mp4", (64, 48)) as writer:
        writer.write(moving_square()[0])
        raise RuntimeError
    assert not list(tmp_path.iterdir())
