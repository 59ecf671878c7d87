"""MP4, JPEG and image reading: round trips, limits and what the errors say."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from gamegen import video


def moving_square(frames: int = 8, height: int = 48, width: int = 64) -> np.ndarray:
    clip = np.full((frames, height, width, 3), 40, np.uint8)
    for t in range(frames):
        clip[t, 10:30, 4 * t : 4 * t + 20] = (220, 120, 30)
    return clip


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def test_mp4_round_trip(tmp_path):
    clip = moving_square()
    video.write_mp4(tmp_path / "clip.mp4", clip)
    back = video.read_mp4(tmp_path / "clip.mp4")
    assert back.shape == clip.shape
    assert np.abs(back.astype(int) - clip).mean() < 6
    assert video.read_mp4(tmp_path / "clip.mp4", max_frames=3).shape[0] == 3


def test_mp4_is_h264_at_24_fps():
    import av

    with av.open(io.BytesIO(video.mp4_bytes(moving_square()))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 24


def test_mp4_wants_even_sizes_and_uint8(tmp_path):
    with pytest.raises(ValueError, match="even width"):
        video.write_mp4(tmp_path / "x.mp4", moving_square(width=63))
    with pytest.raises(ValueError, match="uint8 frames"):
        video.write_mp4(tmp_path / "x.mp4", moving_square().astype(np.float32))
    with pytest.raises(ValueError, match="at least one"):
        video.write_mp4(tmp_path / "x.mp4", moving_square()[:0])


def test_contact_sheet_shows_the_first_frame_and_the_last(tmp_path):
    clip = moving_square()
    video.write_by_suffix(tmp_path / "sheet.png", clip)
    sheet = video.decode_image((tmp_path / "sheet.png").read_bytes())
    height, width = clip.shape[1:3]
    assert sheet.shape == (2 * height, 4 * width, 3)
    assert (sheet[:height, :width] == clip[0]).all() and (sheet[height:, 3 * width :] == clip[-1]).all()
    with pytest.raises(ValueError, match=r"\.mp4 for a video"):
        video.write_by_suffix(tmp_path / "clip.gif", clip)


def test_unreadable_video_names_the_file(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"bad\.mp4"):
        video.read_mp4(tmp_path / "bad.mp4")


def test_jpegs_show_their_frames():
    clip = moving_square(4)
    jpegs = video.encode_jpegs(clip)
    assert len(jpegs) == 4
    assert np.abs(simplejpeg.decode_jpeg(jpegs[2]).astype(int) - clip[2]).mean() < 6


def test_image_is_read_and_bad_ones_are_refused():
    assert video.decode_image(png(20, 10)).shape == (10, 20, 3)
    with pytest.raises(ValueError, match="PNG, JPEG or WebP"):
        video.decode_image(b"\x89PNG but not really")
    with pytest.raises(ValueError, match="PNG, JPEG or WebP"):
        video.decode_image(png(64, 64)[:60])
    with pytest.raises(ValueError, match="scale it down"):
        video.decode_image(png(300, 300), max_pixels=100 * 100)
    with pytest.raises(ValueError, match="send a smaller one"):
        video.decode_image(png(20, 10), max_bytes=10)


@pytest.mark.parametrize("size", [(32, 32), (128, 48), (64, 48)])
def test_resize_crops_the_centre(size):
    resized = video.resize_to(moving_square(), size)
    assert resized.shape == (8, size[1], size[0], 3)
    assert resized.dtype == np.uint8
