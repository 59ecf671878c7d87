"""The REST side over a real Serve application: what it answers, and what it says to wrong input."""

from __future__ import annotations

import base64
import socket

import pytest
import websockets

from deployments.stream.wire import HEADER_BYTES
from tests.media.test_first_frames import video
from tests.serving import PATIENCE_S, png


def error_of(response) -> dict:
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert body["error"] == {"code": body["code"], "message": body["detail"]}
    assert body["status"] == response.status_code
    return body["error"]


def test_health_status_and_docs(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    status = client.get("/v1/status").json()
    assert status["model"]["width"] == 32 and status["model"]["card"]["stage"] == "random"
    assert status["sessions"]["limit"] == 3
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/sessions", "/v1/sessions/{session_id}", "/v1/videos", "/v1/status", "/healthz"} <= set(paths)
    manual = client.get("/docs")
    assert manual.status_code == 200
    assert f"A header of {HEADER_BYTES} bytes" in manual.text


def test_page_and_its_modules_are_served(client):
    page = client.get("/")
    assert page.status_code == 200 and "GameGen" in page.text
    module = client.get("/static/main.js")
    assert "javascript" in module.headers["content-type"]


def test_session_begins_is_described_and_ends(client, begin):
    session = begin(seed=5, perspective="third")
    assert session["stream_url"] == f"/v1/sessions/{session['id']}/stream"
    assert (session["width"], session["height"], session["fps"]) == (32, 32, 24)
    state = client.get(f"/v1/sessions/{session['id']}").json()
    assert (state["state"], state["seed"], state["perspective"]) == ("waiting", 5, "third")
    assert client.delete(f"/v1/sessions/{session['id']}").status_code == 204
    assert client.get(f"/v1/sessions/{session['id']}").status_code == 404


def test_session_may_begin_with_an_image_and_a_resolution(begin):
    image = base64.b64encode(png(100, 60)).decode()
    session = begin(image=image, resolution={"width": 64, "height": 48})
    assert (session["width"], session["height"]) == (64, 48)


@pytest.mark.parametrize(
    "body, says",
    [
        ({"prompt": "very " * 400}, "the limit is 300"),
        ({"prompt": "  "}, "prompt"),
        ({}, "prompt: field required"),
        ({"prompt": "x", "perspective": "bird"}, "'first' or 'third'"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "colour": "red"}, "colour"),
        ({"prompt": "x", "resolution": {"width": 100, "height": 96}}, "multiple of 16, for example 96"),
        ({"prompt": "x", "resolution": {"width": 6400, "height": 6400}}, "the limit is"),
        ({"prompt": "x", "image": "no base64!"}, "base64"),
        ({"prompt": "x", "image": base64.b64encode(b"no image").decode()}, "PNG, JPEG or WebP"),
        ({"prompt": "x", "image": base64.b64encode(png(64, 64)[:70]).decode()}, "PNG, JPEG or WebP"),
        ({"prompt": "x", "image": 7}, "image: not text"),
        (
            {"prompt": "x", "video": base64.b64encode(png(64, 64)).decode()},
            "is a picture: give it as the image",
        ),
        ({"prompt": "x", "video": base64.b64encode(video(8)[:-40]).decode()}, "send a complete MP4 or WebM"),
        ({"prompt": "x", "video": base64.b64encode(video(3)).decode()}, "has 3 frames at 24 a second"),
    ],
)
def test_wrong_session_is_refused_with_what_to_do(client, body, says):
    response = client.post("/v1/sessions", json=body)
    assert response.status_code == 422, response.text
    assert says in error_of(response)["message"]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_file_that_is_too_large_is_413(client, kind):
    file = base64.b64encode(bytes(8 * 2**20 + 1)).decode()
    response = client.post("/v1/sessions", json={"prompt": "x", kind: file})
    assert response.status_code == 413
    assert error_of(response)["code"] == f"{kind}_too_large"


def test_malformed_json_is_refused(client):
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/sessions", content=b"{nope", headers=headers)
    assert response.status_code == 422
    assert "not valid JSON" in error_of(response)["message"]


@pytest.mark.parametrize("path", ["sessions", "videos"])
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(address, path):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f'{head}Content-Length: {10**8}\r\n\r\n{{"prompt": "'.encode())
        answer = b""
        while b"}}" not in answer and (part := connection.recv(4096)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413") and b"body_too_large" in answer


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_session_is_404(client, method):
    response = client.request(method, "/v1/sessions/nobody")
    assert response.status_code == 404
    assert error_of(response)["code"] == "unknown_session"
    assert "POST /v1/sessions" in error_of(response)["message"]


@pytest.mark.parametrize(
    "path", ["/v2/anything", "/static/none.js", "/v1", "/v1/videos/a/b/c", "/favicon.ico"]
)
def test_unknown_address_is_404(client, path):
    assert error_of(client.get(path))["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/sessions", "GET, POST"),
        ("PATCH", "/v1/videos", "GET, POST"),
        ("POST", "/v1/videos/video_1", "GET, DELETE"),
        ("POST", "/v1/videos/video_1/content", "GET, HEAD"),
        ("DELETE", "/static/main.js", "GET, HEAD"),
        ("POST", "/healthz", "GET"),
        ("OPTIONS", "/v1/sessions", "GET, POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client, method, path, allowed):
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert allowed in error_of(response)["message"]


async def test_pages_of_other_sites_cannot_play_and_are_told_why(address, client):
    url = address.replace("http", "ws")
    for origin in ("https://evil.example", "null"):
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.connect(f"{url}/ws/stream?prompt=desert", origin=origin):
                pass
        assert caught.value.response.status_code == 403
        refused = client.post("/v1/sessions", json={"prompt": "x"}, headers={"Origin": origin})
        assert refused.status_code == 403 and error_of(refused)["code"] == "foreign_origin"
    async with websockets.connect(f"{url}/v1/sessions/none/stream", origin=address) as socket:
        await socket.send('{"type": "hello", "token": "x"}')
        await socket.wait_closed()
        assert socket.close_code == 4404
    rebound = client.get("/v1/status", headers={"Host": "attacker.example"})
    assert rebound.status_code == 421 and error_of(rebound)["code"] == "foreign_host"


def test_too_many_sessions_are_429_with_retry_after(client, begin):
    for _ in range(3):
        begin()
    response = client.post("/v1/sessions", json={"prompt": "one more"})
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0
    assert error_of(response)["code"] == "too_many_sessions"


@pytest.mark.parametrize(
    "mine, others",
    [
        ({"X-User": "ann"}, {"X-User": "bob"}),
        # The proxy of Ray Serve believes this of its own machine.
        ({"X-Forwarded-For": "203.0.113.5"}, {"X-Forwarded-For": "203.0.113.6"}),
        ({"X-Forwarded-For": "2001:db8::1"}, {}),
    ],
)
def test_too_many_sessions_of_one_user_are_429(client, nobody_else, mine, others):
    ids = []
    for _ in range(2):
        ids.append(client.post("/v1/sessions", json={"prompt": "x"}, headers=mine).json()["id"])
    response = client.post("/v1/sessions", json={"prompt": "x"}, headers=mine)
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "10"
    assert error_of(response)["code"] == "too_many_sessions_of_user"
    assert "the limit is 2" in error_of(response)["message"]
    ids.append(client.post("/v1/sessions", json={"prompt": "x"}, headers=others).json()["id"])
    text = client.get("/v1/sessions").text
    assert "203.0" not in text and "user" not in text
    for session_id in ids:
        assert client.delete(f"/v1/sessions/{session_id}").status_code == 204
