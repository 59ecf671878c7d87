"""A clip's files: what players show of them, and that their bytes repeat."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg

from gamegen.generation.clip_files import ClipFacts, ClipWriter
from gamegen.media.enlarging import bring_to
from gamegen.media.frames import resize_to
from gamegen.media.mp4 import read_mp4
from tests.picture_samples import moving_square


def write(path: Path, clip: np.ndarray, num_frames: int, fps: int = 24, at_once: int = 4) -> ClipFacts:
    with ClipWriter.open(path, (clip.shape[2], clip.shape[1]), num_frames, fps) as writer:
        for start in range(0, len(clip), at_once):
            writer.add(clip[start : start + at_once])
    return writer.facts


def outline(data: bytes) -> tuple[str, str, int, int, float]:
    """Codec, pixel format, rate, number of frames and duration in seconds."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        length_s = float(stream.duration * stream.time_base)
        return codec.name, codec.pix_fmt, int(stream.average_rate), stream.frames, length_s


@pytest.mark.parametrize("fps", [24, 30, 60])
def test_files_repeat_however_their_frames_come(tmp_path, fps):
    clip = moving_square(12)
    first = write(tmp_path / "a.mp4", clip, 11, fps)
    again = write(tmp_path / "b.mp4", clip, 11, fps, at_once=3)
    assert first == again
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert first.frames_sha256 == hashlib.sha256(clip[:11].tobytes()).hexdigest()
    data = (tmp_path / "a.mp4").read_bytes()
    num_frames = {24: 11, 30: 14, 60: 28}[fps]
    assert outline(data) == ("h264", "yuv420p", fps, num_frames, pytest.approx(num_frames / fps, abs=1e-3))
    # The index stands before the pictures, so that play begins while the file comes.
    assert data.index(b"moov") < data.index(b"mdat")


def test_files_repeat_whatever_lies_in_memory(tmp_path):
    clip, random = moving_square(12), np.random.default_rng(5)
    files = set()
    for _ in range(60):
        used = [np.full(random.integers(1_000, 400_000), random.integers(255), np.uint8) for _ in range(6)]
        del used
        write(tmp_path / "clip.mp4", clip, 11)
        files.add((tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 1


def test_a_file_shows_its_frames(tmp_path):
    clip = moving_square(12)
    facts = write(tmp_path / "clip.mp4", clip, 12)
    assert np.abs(read_mp4(tmp_path / "clip.mp4").astype(int) - clip).mean() < 6
    assert np.abs(simplejpeg.decode_jpeg(facts.thumbnail).astype(int) - clip[6]).mean() < 6


def test_at_30_a_second_what_moves_keeps_its_way(tmp_path):
    clip = moving_square(12)
    write(tmp_path / "clip.mp4", clip, 12, fps=30)
    shown = read_mp4(tmp_path / "clip.mp4")
    assert len(shown) == 15
    # Every fifth frame is one of those drawn.
    for i in range(3):
        assert np.abs(shown[5 * i].astype(int) - clip[4 * i]).mean() < 6
    assert np.abs(shown[-1].astype(int) - clip[-1]).mean() < 6


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
@pytest.mark.parametrize("fps", [24, 30, 60])
def test_the_shortest_clips_are_whole(tmp_path, num_frames, fps):
    write(tmp_path / "clip.mp4", moving_square(8), num_frames, fps)
    assert len(read_mp4(tmp_path / "clip.mp4")) == -(-num_frames * fps // 24)


def test_large_pictures_have_small_thumbnails(tmp_path):
    facts = write(tmp_path / "clip.mp4", moving_square(4, 320, 640), 4)
    assert simplejpeg.decode_jpeg_header(facts.thumbnail)[:2] == (160, 320)


def test_what_is_not_the_clip_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="fps = 25: a clip has 24, 30, 60"),
        ClipWriter.open(tmp_path / "clip.mp4", (64, 48), 8, fps=25),
    ):
        pass
    with pytest.raises(ValueError, match="8 of 9 frames"):
        write(tmp_path / "clip.mp4", moving_square(8), 9)
    with (
        pytest.raises(ValueError, match="frames of 64x48 for a clip that is drawn at 64x64"),
        ClipWriter.open(tmp_path / "clip.mp4", (64, 64), 8) as writer,
    ):
        writer.add(moving_square(8))


@pytest.mark.parametrize("size", [(640, 360), (320, 192), (48, 48), (66, 50)])
def test_frames_are_brought_to_the_size_of_the_file(tmp_path, size):
    clip, path = moving_square(8, 48, 80), tmp_path / "clip.mp4"
    with ClipWriter.open(path, size, 7, 30, drawn=(80, 48)) as writer:
        writer.add(clip)
    shown = read_mp4(path)
    assert shown.shape == (9, size[1], size[0], 3)
    assert writer.facts.frames_sha256 == hashlib.sha256(clip[:7].tobytes()).hexdigest()
    small = resize_to(bring_to(clip[:1], size), (size[0] // 2, size[1] // 2))
    assert np.abs(resize_to(shown[:1], (size[0] // 2, size[1] // 2)).astype(int) - small).mean() < 6
    height, width = simplejpeg.decode_jpeg_header(writer.facts.thumbnail)[:2]
    assert width == min(320, size[0]) and abs(width / height - size[0] / size[1]) < 0.02


def test_an_odd_size_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="641x360 as"),
        ClipWriter.open(tmp_path / "a.mp4", (641, 360), 8),
    ):
        pass
