"""Sessions that begin from a gallery: how it is listed, which start a session gets, and which requests are refused."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from deployments.settings import load_settings
from gamegen.media.images import encode_jpegs
from gamegen.media.recorded_start import RecordedStart
from gamegen.replay.replay import replay
from gamegen.sessions.log_file import from_json
from tests.serving import end_sessions, png, streaming

PICTURE = base64.b64encode(png(40, 40)).decode()


@pytest.fixture
def usual_start() -> None:
    return None


def test_it_is_listed_page_by_page_with_pictures(client):
    page = client.get("/v1/gallery", params={"limit": 3, "offset": 1})
    assert page.status_code == 200 and "max-age" in page.headers["cache-control"]
    starts, total = page.json()["starts"], page.json()["total"]
    assert len(starts) == 3 < total and page.json()["credit"] == "a game of ours (CC0-1.0)"
    assert starts[0] == client.get("/v1/gallery").json()["starts"][1]
    assert client.get("/v1/status").json()["model"]["gallery_starts"] == total
    picture = client.get(starts[0]["picture_url"])
    assert picture.headers["content-type"] == "image/webp" and "max-age" in picture.headers["cache-control"]
    assert Image.open(io.BytesIO(picture.content)).size == (32, 32)
    missing = client.get("/v1/gallery/nowhere/picture")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_start")
    assert client.get("/v1/gallery", params={"limit": 1000}).status_code == 422


def test_a_session_begins_from_it_by_default_and_says_so(client, begin):
    session = begin(prompt="a desert", perspective="third")
    start = session["start"]
    assert start["kind"] == "gallery" and start["id"].startswith("clip-3")
    assert (start["caption"], start["credit"]) == (
        "third-person, sandy desert at noon",
        "a game of ours (CC0-1.0)",
    )
    assert client.get(f"/v1/sessions/{session['id']}").json()["start"] == start
    assert client.get("/v1/sessions").json()["sessions"][0]["start"] == start
    token = {"session_id": session["id"], "resume_token": session["resume_token"]}
    branch = begin_branch(client, token)
    assert branch["start"] == start
    client.delete(f"/v1/sessions/{branch['id']}")


def begin_branch(client, token: dict[str, str]) -> dict:
    response = client.post("/v1/sessions", json={"branch": token})
    assert response.status_code == 201, response.text
    return response.json()


@pytest.mark.parametrize(
    ("body", "kind"), [({"start": "drawn"}, "drawn"), ({"image": PICTURE}, "picture"), ({}, "gallery")]
)
def test_the_start_can_be_chosen(begin, body, kind):
    assert begin(**body)["start"]["kind"] == kind


def test_a_world_of_a_chosen_start_is_replayed_from_its_log(client, begin):
    wanted = client.get("/v1/gallery").json()["starts"][2]["id"]
    session = begin(seed=3, gallery_id=wanted)
    order = {"session_id": session["id"], "resume_token": session["resume_token"], "keys": ["w"], "chunks": 7}
    answer = client.post("/v1/control", json=order).json()
    served = np.stack([simplejpeg.decode_jpeg(base64.b64decode(frame)) for frame in answer["frames"]])
    log = from_json(client.get(f"/v1/sessions/{session['id']}/log").text)
    assert log.spec.first_frames is not None
    assert RecordedStart.from_bytes(log.spec.first_frames).id == wanted
    quality = load_settings().decoder.jpeg_quality
    again = [simplejpeg.decode_jpeg(file) for chunk in replay(log) for file in encode_jpegs(chunk, quality)]
    assert np.abs(served.astype(float) - np.stack(again)).mean() < 0.5


async def test_a_socket_plays_on_from_it(address, begin):
    async with streaming(address, begin(seed=4)) as client:
        frames = await client.frames(8)
    assert [frame.header.chunk for frame in frames] == [0] * 4 + [1] * 4
    end_sessions(address)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"start": "picture"}, "invalid_request", "start: a picture needs an image or a video"),
        ({"start": "drawn", "image": PICTURE}, "invalid_request", "uses no image or video"),
        ({"start": "gallery", "image": PICTURE}, "invalid_request", "uses no image or video"),
        (
            {"start": "drawn", "gallery_id": "a"},
            "invalid_request",
            "gallery_id: it is for start 'gallery' alone",
        ),
        ({"start": "elsewhere"}, "invalid_request", "start"),
        ({"gallery_id": "nowhere"}, "unknown_start", "take the id of one that it lists"),
    ],
)
def test_starts_that_cannot_be_had_are_refused(client, body, code, message):
    refused = client.post("/v1/sessions", json={"prompt": "snow", **body})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, code) and message in error["message"]
