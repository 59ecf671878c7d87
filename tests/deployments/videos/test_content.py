"""A clip's files, fetched by curl: whole, in ranges, and from the object store."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployments.videos.content import VideoDownloads
from deployments.videos.settings import VideoApiSettings
from gamegen.storage.objects import LocalStore
from tests.clip_server import CLIP_BYTES, ClipServer, clip_of
from tests.deployments.videos.helping import ended, ordered

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class StoreWithUrls(LocalStore):
    """A folder whose files have URLs if a web server at `address` serves them."""

    def __init__(self, folder: Path, address: str | None) -> None:
        super().__init__(folder)
        self._address = address

    def url(
        self, key: str, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str | None:
        return f"{self._address}/{key}?expires={expires_s}" if self._address else None


@pytest.fixture(scope="module")
def http(clip_server: ClipServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=clip_server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def video(http: httpx.Client) -> dict:
    return ended(http, ordered(http, "a clip to fetch", num_frames=4)["id"])


@pytest.fixture(scope="module")
def clip(clip_server: ClipServer, video: dict) -> bytes:
    return clip_of(clip_server.do(clip_server.queue.get(video["id"], "local")).order)


@pytest.fixture
def curl(clip_server: ClipServer, video: dict, tmp_path: Path):
    def run(*arguments: str, path: str = "content") -> tuple[int, dict[str, str], bytes]:
        """The status, the headers in small letters, and the body."""
        body, headers = tmp_path / "body", tmp_path / "headers"
        body.unlink(missing_ok=True)
        address = f"{clip_server.url}/v1/videos/{video['id']}/{path}"
        done = subprocess.run(
            ["curl", "-sS", "-o", body, "-D", headers, "-w", "%{http_code}", *arguments, address],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.partition(": ") for line in headers.read_text().splitlines()]
        found = {name.lower(): value for name, colon, value in lines if colon}
        return int(done.stdout), found, body.read_bytes() if body.exists() else b""

    return run


def test_the_whole_clip(curl, clip):
    status, headers, body = curl()
    assert (status, body) == (200, clip)
    assert (headers["content-type"], headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert headers["content-length"] == str(CLIP_BYTES)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("100-199", 100, 200),
        ("299990-", 299_990, CLIP_BYTES),
        ("-10", CLIP_BYTES - 10, CLIP_BYTES),
        ("-999999", 0, CLIP_BYTES),
        ("70000-999999999", 70_000, CLIP_BYTES),
    ],
)
def test_a_range(curl, clip, asked, start, stop):
    status, headers, body = curl("-r", asked)
    assert (status, body) == (206, clip[start:stop])
    assert headers["content-range"] == f"bytes {start}-{stop - 1}/{CLIP_BYTES}"
    assert headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["300000-", "900000-900001", "-0"])
def test_a_range_behind_the_end(curl, asked):
    status, headers, _ = curl("-r", asked)
    assert (status, headers["content-range"]) == (416, f"bytes */{CLIP_BYTES}")
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=a-b", "bytes=-", "bytes=1"])
def test_a_range_that_is_none(curl, asked):
    status, headers, _ = curl("-H", f"Range: {asked}")
    assert (status, headers["content-type"]) == (400, "application/problem+json")


def test_several_ranges_and_other_units_are_answered_by_the_whole(curl, clip):
    assert curl("-r", "0-1,5-6")[::2] == (200, clip)
    assert curl("-H", "Range: chunks=0-1")[::2] == (200, clip)


def test_what_has_not_changed_is_not_sent_again(curl, clip):
    tag = curl()[1]["etag"]
    assert curl("-H", f"If-None-Match: {tag}")[0] == 304
    assert curl("-r", "5-9", "-H", f"If-Range: {tag}")[::2] == (206, clip[5:10])
    assert curl("-r", "5-9", "-H", 'If-Range: "another"')[::2] == (200, clip)


def test_the_head_of_a_file(curl):
    status, headers, body = curl("-I")
    assert (status, headers["content-length"]) == (200, str(CLIP_BYTES))
    assert body.count(b"\r\n") == len(body.splitlines())


def test_an_interrupted_download_is_gone_on_from(clip_server, video, clip, tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(clip[:12_345])
    address = f"{clip_server.url}/v1/videos/{video['id']}/content"
    subprocess.run(["curl", "-sS", "-C", "-", "-o", file, address], check=True)
    assert file.read_bytes() == clip


def test_the_thumbnail_has_two_addresses(curl, clip):
    status, headers, body = curl(path="thumbnail")
    assert (status, headers["content-type"], body) == (200, "image/jpeg", clip[:1000])
    assert curl(path="content?variant=thumbnail")[2] == body


def test_a_video_that_is_not_ready_has_no_content_yet(http):
    waiting = ordered(http, "wait for it", num_frames=4)
    answer = http.get(f"/v1/videos/{waiting['id']}/content")
    assert (answer.status_code, answer.json()["code"]) == (409, "video_not_ready")
    assert answer.headers["retry-after"]
    http.delete(f"/v1/videos/{waiting['id']}")


def test_files_that_are_gone_are_not_found(http, clip_server):
    lost = ended(http, ordered(http, "its files go", num_frames=4)["id"])
    for name in ("clip.mp4", "thumbnail.jpg"):
        clip_server.objects.delete(f"videos/{lost['id']}/{name}")
    for path in ("content", "thumbnail"):
        answer = http.get(f"/v1/videos/{lost['id']}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "video_expired")


def test_clients_are_sent_to_a_store_that_has_addresses(http, clip_server, video, monkeypatch):
    settings = VideoApiSettings(redirects_content=True)

    def store_at(address: str | None) -> None:
        store = StoreWithUrls(clip_server.objects.folder, address)
        monkeypatch.setattr(clip_server.service, "downloads", VideoDownloads(store, settings))

    store_at(None)
    path = f"/v1/videos/{video['id']}/content"
    assert http.get(path).status_code == 200
    store_at("https://store.example")
    answer = http.get(path)
    assert answer.status_code == 302
    assert answer.headers["location"] == f"https://store.example/videos/{video['id']}/clip.mp4?expires=3600"
