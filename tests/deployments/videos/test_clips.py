"""Clips over a real Serve application: ordered, drawn with the tiny model, watched, fetched and cancelled."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from typing import Any

import av
import httpx
import pytest
import simplejpeg
import websockets

from tests.serving import PATIENCE_S

CLIP = {"prompt": "a desert", "num_frames": 10, "seed": 3, "size": "48x32", "num_steps": 2}
LONG = {"prompt": "a long way", "num_frames": 102, "num_steps": 100}
"""An order that nobody waits for."""


def problem(response: httpx.Response, status: int, code: str) -> str:
    """What a refusal says."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"], body["error"]["code"]) == (status, code, code)
    return body["detail"]


def events_of(client: httpx.Client, video_id: str, last_id: int = 0) -> list[tuple[str, int, dict[str, Any]]]:
    """What a stream of server-sent events tells until it ends: names, ids and videos."""
    told, event = [], {"event": "", "id": "0"}
    headers = {"Last-Event-ID": str(last_id)}
    with client.stream("GET", f"/v1/videos/{video_id}/stream", headers=headers) as stream:
        if stream.status_code == 204:
            return []
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            event[name] = value
            if name == "data":
                event["data"] = value
            elif not line and "data" in event:
                told.append((event["event"], int(event["id"]), json.loads(event.pop("data"))))
    return told


def ended(client: httpx.Client, video_id: str) -> dict[str, Any]:
    """An order once it has ended."""
    events_of(client, video_id)
    return client.get(f"/v1/videos/{video_id}").json()


@pytest.fixture(scope="module")
def clip(address: str) -> dict[str, Any]:
    """A finished clip."""
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        response = client.post("/v1/videos", json=CLIP)
        assert response.status_code == 202, response.text
        video = ended(client, response.json()["id"])
    assert video["state"] == "COMPLETED", video
    return video


def test_a_clip_is_h264_of_the_ordered_size(client, clip):
    assert (clip["status"], clip["progress"], clip["size"], clip["seed"]) == ("completed", 100, "48x32", 3)
    assert clip["expires_at"] > clip["completed_at"] >= clip["created_at"]
    file = client.get(clip["content_url"])
    assert file.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(file.content)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == 24
        assert (stream.width, stream.height) == (48, 32)
        assert sum(1 for _ in container.decode(video=0)) == 10
    thumbnail = client.get(clip["thumbnail_url"])
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert simplejpeg.decode_jpeg(thumbnail.content).shape[2] == 3


def test_a_clip_says_that_it_was_made_by_a_model(client, clip, gamegen, tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(client.get(clip["content_url"]).content)
    done = gamegen("verify", str(file))
    assert done.returncode == 0, done.stdout
    assert "valid" in done.stdout and "trainedAlgorithmicMedia" in done.stdout


def test_curl_goes_on_with_a_broken_download(address, client, clip, tmp_path):
    whole = client.get(clip["content_url"]).content
    file = tmp_path / "clip.mp4"
    file.write_bytes(whole[:1000])
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    subprocess.run(
        [curl, "-sS", "--fail", "-C", "-", "-o", str(file), address + clip["content_url"]], check=True
    )
    assert file.read_bytes() == whole
    part = client.get(clip["content_url"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    behind = client.get(clip["content_url"], headers={"Range": f"bytes={len(whole)}-"})
    problem(behind, 416, "range_not_satisfiable")


async def test_a_stream_tells_every_state_and_goes_on_where_it_broke(address, client, clip):
    told = events_of(client, clip["id"])
    states = [video["state"] for name, _, video in told if name == "phase_change"]
    assert states[:3] == ["PENDING", "ENCODING", "QUEUED"]
    assert states[-4:] == ["VAE_DECODING", "SAFETY_CHECKING", "TRANSCODING", "UPLOADING"]
    assert told[-1][0] == "completed" and told[-1][2]["content_url"] == clip["content_url"]
    assert events_of(client, clip["id"], told[2][1]) == told[3:]
    assert events_of(client, clip["id"], told[-1][1]) == []
    url = f"{address.replace('http', 'ws')}/v1/videos/{clip['id']}/progress"
    async with websockets.connect(url) as socket:
        messages = [json.loads(message) async for message in socket]
    assert [message["id"] for message in messages] == [event_id for _, event_id, _ in told]
    assert socket.close_code == 1000


def test_the_same_order_is_given_at_once(client, clip):
    again = client.post("/v1/videos", json=CLIP).json()
    assert again["id"] != clip["id"] and again["state"] == "COMPLETED"
    assert client.get(again["content_url"]).content == client.get(clip["content_url"]).content
    ids = [video["id"] for video in client.get("/v1/videos", params={"status": "completed"}).json()["data"]]
    assert ids.index(again["id"]) < ids.index(clip["id"])


def test_a_request_is_carried_out_once(client):
    headers = {"X-Request-ID": "once"}
    first, second = (client.post("/v1/videos", json=CLIP | {"seed": 4}, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert first.headers["X-Request-ID"] == "once"
    other = client.post("/v1/videos", json=CLIP | {"seed": 5}, headers=headers)
    problem(other, 409, "request_reused")
    ended(client, first.json()["id"])


def test_a_clip_that_is_drawn_can_be_cancelled(client):
    video = client.post("/v1/videos", json=LONG).json()
    assert "is " in problem(client.get(f"/v1/videos/{video['id']}/content"), 409, "video_not_ready")
    deleted = client.delete(f"/v1/videos/{video['id']}")
    assert deleted.json()["deleted"] is True
    video = ended(client, video["id"])
    assert (video["state"], video["status"]) == ("CANCELLED", "failed")
    assert video["step"] < 26 * 100
    problem(client.get(f"/v1/videos/{video['id']}/content"), 409, "video_cancelled")
    problem(client.delete(f"/v1/videos/{video['id']}"), 409, "already_ended")


@pytest.mark.parametrize(
    "change, code, says",
    [
        ({"num_frames": 1441}, "invalid_request", "1440, 60 s"),
        ({"num_frames": 10**30}, "invalid_request", "num_frames"),
        ({"seconds": 61}, "invalid_request", "1440, 60 s"),
        ({"seconds": 1e300}, "invalid_request", "seconds"),
        ({"num_frames": 0}, "invalid_request", "num_frames"),
        ({"num_steps": 101}, "invalid_request", "num_steps"),
        ({"guidance_scale": 20.5}, "invalid_request", "guidance_scale"),
        ({"size": "51x32"}, "invalid_request", "even"),
        ({"size": "3840x2160"}, "invalid_request", "the limit here is"),
        ({"prompt": "very " * 390}, "prompt_too_long", "the limit is 300"),
        ({"colour": "red"}, "invalid_request", "colour"),
        ({"webhook_url": "http://example.com/"}, "invalid_webhook_url", "https"),
    ],
)
def test_a_wrong_order_is_refused(client, change, code, says):
    assert says in problem(client.post("/v1/videos", json={"prompt": "x", **change}), 422, code)


def test_words_that_may_not_be_used_are_refused(client):
    response = client.post("/v1/videos", json={"prompt": "a naked woman having sex"})
    detail = problem(response, 451, "words_refused")
    video = ended(client, detail.partition(":")[0])
    assert (video["state"], video["error"]["code"]) == ("BLOCKED", "words_refused")


@pytest.mark.parametrize(
    "method, path", [("GET", ""), ("GET", "/content"), ("GET", "/stream"), ("DELETE", "")]
)
def test_an_unknown_clip_is_404(client, method, path):
    problem(client.request(method, f"/v1/videos/nothing{path}"), 404, "unknown_video")


def test_the_older_addresses_are_the_same(client, clip):
    again = client.post("/api/v1/generate", json=CLIP)
    assert again.status_code == 202 and again.json()["state"] == "COMPLETED"
    assert client.get("/api/v1/status").json()["model"]["width"] == 32
    problem(client.post("/api/v1/generate", json={}), 422, "invalid_request")
    assert client.post("/api/v1/control", json={}).status_code == 422
