"""The client package, against the real routes and against servers that break off."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gamegen_client import (
    AuthenticationError,
    BlockedError,
    Client,
    ConflictError,
    DamagedFileError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from gamegen_client import transport as sending

from tests.clip_server import ClipServer, clip_of

CLIP = bytes(range(256)) * 2000
TAG = f'"{hashlib.sha256(CLIP).hexdigest()}"'


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again at once."""
    monkeypatch.setattr(sending, "_FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(sending, "_LONGEST_DELAY_S", 0.05)


@pytest.fixture
def client(clip_server: ClipServer) -> Iterator[Client]:
    with Client(clip_server.url) as client:
        yield client


Answer = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server that leaves each request to `answer`, with the number of requests before it."""
    count = iter(range(1000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, next(count))

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, length: int = -1, **headers: str
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body) if length < 0 else length))
    handler.end_headers()
    handler.wfile.write(body)


def test_a_clip_from_its_order_to_its_file(client, clip_server, tmp_path):
    video = client.create("a clip for a client", num_frames=4, seed=5)
    updates = [*client.watch(video["id"])]
    assert [update.event for update in updates][-1] == "completed"
    assert {"phase_change", "progress"} <= {update.event for update in updates}
    assert updates[-1].video["state"] == "COMPLETED"
    assert client.wait(video["id"])["progress"] == 100
    clip = clip_of(clip_server.do(clip_server.queue.get(video["id"], "local")).order)
    seen: list[int] = []
    file = client.download(video["id"], tmp_path / "clip.mp4", progress=lambda done, _: seen.append(done))
    assert file.read_bytes() == clip
    assert seen[-1] == len(clip)
    assert client.thumbnail(video["id"], tmp_path / "clip.jpg").read_bytes() == clip[:1000]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.jpg", "clip.mp4"]
    assert client.get(video["id"])["id"] == client.list("completed", limit=1)["data"][0]["id"]
    assert client.keep(video["id"])["is_kept"]
    assert client.remove(video["id"])["deleted"]
    assert client.get(video["id"])["content_url"] is None


def test_errors_have_types(client, tmp_path):
    with pytest.raises(NotFoundError, match="video_0") as caught:
        client.get("video_0")
    assert (caught.value.status, caught.value.code) == (404, "unknown_video")
    with pytest.raises(InvalidRequestError, match="fps"):
        client.create("a", fps=25)
    with pytest.raises(BlockedError):
        client.create("forbidden")
    with pytest.raises(InsufficientCreditsError):
        client.create("gold", resolution="720p", num_steps=100, tier="cinema", seconds=60)
    video = client.create("wait for a client", num_frames=4)
    with pytest.raises(ConflictError) as not_ready:
        client.download(video["id"], tmp_path / "clip.mp4")
    assert not_ready.value.retry_after_s
    assert client.cancel(video["id"])["deleted"]
    assert client.wait(video["id"])["state"] == "CANCELLED"
    with pytest.raises(ConflictError):
        client.cancel(video["id"])
    with pytest.raises(ValueError, match="is not a video id"):
        client.get("../status")


def test_an_order_is_sent_again_under_its_name_until_it_is_taken():
    names, waits = [], []

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        names.append(handler.headers["X-Request-ID"])
        if number == 0:
            handler.connection.close()
        elif number < 3:
            waits.append(number)
            reply(handler, 503, b"{}", Retry_After="0")
        else:
            reply(handler, 202, b'{"id": "video_1"}')

    with answering(answer) as url, Client(url) as client:
        assert client.create("a") == {"id": "video_1"}
    assert len(names) == 4
    assert len(set(names)) == 1
    assert waits == [1, 2]


def test_a_server_that_stays_away_is_an_error():
    with (
        answering(lambda handler, _: handler.connection.close()) as url,
        Client(url, max_retries=2) as client,
        pytest.raises(UnavailableError, match="cannot be reached"),
    ):
        client.get("video_1")
    refusing = {"status": 401, "body": b'{"code": "unauthorized", "detail": "send a key"}'}
    with (
        answering(lambda handler, _: reply(handler, **refusing)) as url,
        Client(url) as client,
        pytest.raises(AuthenticationError, match="send a key"),
    ):
        client.get("video_1")


def test_a_download_goes_on_where_it_broke(tmp_path):
    asked = []

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        asked.append(handler.headers["Range"])
        start = int((asked[-1] or "bytes=0-")[6:-1])
        headers = {"ETag": TAG}
        if start:
            assert handler.headers["If-Range"] == TAG
            headers["Content-Range"] = f"bytes {start}-{len(CLIP) - 1}/{len(CLIP)}"
        part = CLIP[start:] if number == 2 else CLIP[start : start + 150_000]
        reply(handler, 206 if start else 200, part, len(CLIP) - start, **headers)

    with answering(answer) as url, Client(url) as client:
        assert client.download("video_1", tmp_path / "clip.mp4").read_bytes() == CLIP
    assert asked[0] is None
    assert [int(one[6:-1]) for one in asked[1:]] == sorted(int(one[6:-1]) for one in asked[1:])
    assert len(asked) == 3


@pytest.mark.parametrize("part", [CLIP[:-1] + b"x", CLIP[:-1]])
def test_a_damaged_file_is_not_kept(tmp_path, part):
    file = tmp_path / "clip.mp4"
    with (
        answering(lambda handler, _: reply(handler, 200, part, ETag=TAG)) as url,
        Client(url) as client,
        pytest.raises(DamagedFileError),
    ):
        client.download("video_1", file)
    assert not file.exists()
    assert not [*tmp_path.glob("*.partial")]


def test_what_is_left_of_another_file_is_thrown_away(tmp_path):
    (tmp_path / "clip.mp4.partial").write_bytes(b"of another" * 100_000)
    (tmp_path / "clip.mp4.partial.etag").write_text('"other"')

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        if handler.headers["Range"]:
            reply(handler, 416, b"{}")
        else:
            reply(handler, 200, CLIP, ETag=TAG)

    with answering(answer) as url, Client(url) as client:
        assert client.download("video_1", tmp_path / "clip.mp4").read_bytes() == CLIP


def test_a_stream_that_breaks_is_taken_up_after_its_last_event():
    seen = []

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        seen.append(handler.headers["Last-Event-ID"])
        if number == 1:
            handler.connection.close()
            return
        state = "COMPLETED" if number == 2 else "GENERATING"
        name = "completed" if number == 2 else "progress"
        event = (
            f': ping\n\nevent: {name}\nid: {7 + number}\ndata: {{"state": "{state}",\ndata: "step": 1}}\n\n'
        )
        reply(handler, 200, event.encode(), Content_Type="text/event-stream")

    with answering(answer) as url, Client(url) as client:
        updates = [*client.watch("video_1")]
    assert seen == [None, "7", "7"]
    assert [update.video["state"] for update in updates] == ["GENERATING", "COMPLETED"]


def test_without_a_stream_the_video_is_asked_for(monkeypatch):
    states = iter(['"QUEUED", "step": 0', '"GENERATING", "step": 1', '"FAILED", "step": 1'])

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        if handler.path.endswith("/stream"):
            reply(handler, 503, b"{}")
        else:
            reply(handler, 200, f'{{"state": {next(states)}}}'.encode())

    monkeypatch.setattr("gamegen_client.client._FIRST_POLL_S", 0.01)
    with answering(answer) as url, Client(url, max_retries=1) as client:
        assert [update.event for update in client.watch("video_1")] == [
            "phase_change",
            "phase_change",
            "error",
        ]


def test_files_to_begin_with_are_sent(tmp_path: Path, client, clip_server):
    from tests.serving import png

    file = tmp_path / "first.png"
    file.write_bytes(png(160, 96))
    once = {"image": file, "num_frames": 8, "request_id": "once-from-a-client"}
    video_id = client.create("from a picture", **once)["id"]
    assert client.create("from a picture", **once)["id"] == video_id
    order = clip_server.do(clip_server.queue.get(video_id, "local")).order
    assert clip_server.objects.read(order.image_key) == file.read_bytes()
