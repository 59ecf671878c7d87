"""`gamegen videos` against a running clip service."""

from __future__ import annotations

import pytest

from tests.clip_server import CLIP_BYTES, ClipServer


@pytest.fixture
def videos(clip_server: ClipServer, gamegen, monkeypatch):
    monkeypatch.setenv("GAMEGEN_URL", clip_server.url)
    monkeypatch.delenv("GAMEGEN_API_KEY", raising=False)
    return lambda *arguments: gamegen("videos", *arguments)


def test_a_clip_is_ordered_and_fetched(videos, tmp_path):
    clip, again, small = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "b.jpg"
    done = videos("create", "a forest", "--frames", "4", "--seed", "3", "-o", str(clip))
    assert done.returncode == 0, done.stderr
    video_id = done.stdout.splitlines()[0]
    assert str(clip) in done.stdout.replace("\n", "")
    assert "completed" in done.stdout
    assert clip.stat().st_size == CLIP_BYTES
    assert videos("download", video_id, "-o", str(again)).returncode == 0
    assert again.read_bytes() == clip.read_bytes()
    assert videos("download", video_id, "--thumbnail", "-o", str(small)).returncode == 0
    assert small.stat().st_size == 1000
    listed = videos("list", "--limit", "1", "--status", "completed")
    assert video_id in listed.stdout
    assert "COMPLETED" in listed.stdout
    assert videos("watch", video_id).returncode == 0


def test_a_clip_is_cancelled(videos):
    video_id = videos("create", "wait a while", "--frames", "4").stdout.strip()
    assert video_id in videos("cancel", video_id).stdout
    ended = videos("watch", video_id)
    assert (ended.returncode, "CANCELLED" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("create", "a", "--fps", "25"), "fps"),
        (("create", "a", "--image", "nowhere.png"), "nowhere.png"),
        (("watch", "video_0"), "video_0"),
        (("cancel", "a/b"), "is not a video id"),
        (("list", "--status", "lost"), "status"),
    ],
)
def test_what_is_wrong_is_one_sentence(videos, arguments, word):
    done = videos(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("gamegen: ")
    assert word in done.stderr
