"""What happens to a video, as server-sent events and on a WebSocket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import httpx
import pytest
import websockets
from gamegen_client.events import ServerEvent, read_events

from deployments.videos.events import EventStreams
from deployments.videos.settings import VideoApiSettings
from tests.clip_server import PATIENCE_S, ClipServer
from tests.deployments.videos.helping import ended, ordered


@pytest.fixture
def http(clip_server: ClipServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=clip_server.url, timeout=PATIENCE_S) as client:
        yield client


def streamed(http: httpx.Client, video_id: str, last_id: str | None = None) -> Iterator[ServerEvent]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with http.stream("GET", f"/v1/videos/{video_id}/stream", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield from read_events(answer.iter_lines())


def test_a_video_is_followed_from_its_order_to_its_end(http):
    events = [*streamed(http, ordered(http, "follow me", num_frames=4)["id"])]
    videos = [json.loads(event.data) for event in events]
    phases = [v["state"] for e, v in zip(events, videos, strict=True) if e.name == "phase_change"]
    assert phases == [
        *("PENDING", "ENCODING", "QUEUED", "ASSIGNED", "GENERATING"),
        *("VAE_DECODING", "SAFETY_CHECKING", "TRANSCODING", "UPLOADING"),
    ]
    assert [event.name for event in events].count("completed") == 1
    assert events[-1].name == "completed"
    assert (videos[-1]["state"], videos[-1]["progress"]) == ("COMPLETED", 100)
    steps = [v["step"] for e, v in zip(events, videos, strict=True) if e.name == "progress"]
    assert steps == sorted(steps)
    assert steps[-1] == 3
    ids = [int(event.id) for event in events]
    assert ids == sorted(set(ids))


def test_a_stream_is_taken_up_after_any_event(http):
    video_id = ordered(http, "take me up", num_frames=4)["id"]
    events = [*streamed(http, video_id)]
    told = [event for event in events if event.name != "progress"]
    for index, event in enumerate(told[:-1]):
        after = [other.id for other in streamed(http, video_id, event.id) if other.name != "progress"]
        assert after == [other.id for other in told[index + 1 :]]
    over = http.get(f"/v1/videos/{video_id}/stream", headers={"Last-Event-ID": told[-1].id})
    assert (over.status_code, over.content) == (204, b"")


@pytest.mark.parametrize("last_id", ["-1", "x", "9" * 40])
def test_an_event_that_cannot_be_is_refused(http, last_id):
    video_id = ordered(http, num_frames=4)["id"]
    answer = http.get(f"/v1/videos/{video_id}/stream", headers={"Last-Event-ID": last_id})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_a_silent_stream_says_that_it_lives_and_tells_of_the_end(http):
    video_id = ordered(http, "wait and see", num_frames=4)["id"]
    names, comments = [], 0
    with http.stream("GET", f"/v1/videos/{video_id}/stream") as answer:
        for line in answer.iter_lines():
            if line.startswith(":"):
                comments += 1
                if comments == 2:
                    threading.Thread(target=http.delete, args=(f"/v1/videos/{video_id}",)).start()
            if line.startswith("event:"):
                names.append(line)
    assert comments >= 2
    assert names[-1] == "event: error"
    assert ended(http, video_id)["state"] == "CANCELLED"


def test_there_are_only_so_many_watchers(http, clip_server, monkeypatch):
    video_id = ordered(http, "wait alone", num_frames=4)["id"]
    streams = EventStreams(clip_server.queue, clip_server.listener, VideoApiSettings(max_streams=1))
    monkeypatch.setattr(clip_server.service, "streams", streams)
    with http.stream("GET", f"/v1/videos/{video_id}/stream") as first:
        lines = first.iter_lines()
        assert any(line.startswith("event:") for line in lines)
        second = http.get(f"/v1/videos/{video_id}/stream")
        assert (second.status_code, second.json()["code"]) == (503, "too_many_streams")
    http.delete(f"/v1/videos/{video_id}")


async def test_the_same_on_a_websocket(http, clip_server):
    video_id = await asyncio.to_thread(lambda: ordered(http, "on a socket", num_frames=4)["id"])
    address = clip_server.url.replace("http", "ws")
    async with asyncio.timeout(PATIENCE_S):
        async with websockets.connect(f"{address}/v1/videos/{video_id}/progress") as socket:
            messages = [json.loads(message) async for message in socket]
        assert (messages[0]["type"], messages[0]["video"]["state"]) == ("phase_change", "PENDING")
        assert (messages[-1]["type"], messages[-1]["video"]["state"]) == ("completed", "COMPLETED")
        assert socket.close_code == 1000
        async with websockets.connect(f"{address}/v1/videos/video_0/progress") as socket:
            await socket.wait_closed()
        assert socket.close_code == 4404


async def test_a_watcher_who_leaves_is_forgotten(http, clip_server):
    video_id = await asyncio.to_thread(lambda: ordered(http, "wait for nobody", num_frames=4)["id"])
    address = clip_server.url.replace("http", "ws")
    async with asyncio.timeout(PATIENCE_S):
        async with websockets.connect(f"{address}/v1/videos/{video_id}/progress") as socket:
            await socket.recv()
            assert clip_server.service.streams.num_open == 1
        while clip_server.service.streams.num_open:
            await asyncio.sleep(0.02)
    await asyncio.to_thread(http.delete, f"/v1/videos/{video_id}")
