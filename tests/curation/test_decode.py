import numpy as np
import pytest

from gamegen.curation.decode import decode_clip, encode_clip
from tests.footage_samples import panning_frames


@pytest.mark.parametrize(("pixel_format", "tolerance"), [("yuv420p", 6.0), ("yuv444p", 3.0)])
def test_a_clip_survives_the_round_trip(pixel_format: str, tolerance: float) -> None:
    frames = panning_frames(16)
    back = decode_clip(encode_clip(frames, 24, pixel_format=pixel_format))
    assert back.shape == frames.shape
    error = back.astype(float) - frames
    assert np.abs(error).mean() < tolerance
    assert np.abs(error.mean((0, 1, 2))).max() < 2.0, "the colours shifted"


def test_reading_can_stop_early() -> None:
    assert len(decode_clip(encode_clip(panning_frames(16), 24), max_frames=3)) == 3


def test_broken_data_says_so(tmp_path) -> None:
    data = encode_clip(panning_frames(8), 24)
    for broken in (b"", b"not a video", data[: len(data) // 2]):
        with pytest.raises(ValueError, match="cannot decode the clip"):
            decode_clip(broken)
    with pytest.raises(ValueError, match="cannot decode the clip"):
        decode_clip(tmp_path / "missing.mp4")


def test_only_pictures_are_encoded() -> None:
    with pytest.raises(ValueError, match="uint8 frames"):
        encode_clip(np.zeros((4, 16, 16), np.uint8), 24)
