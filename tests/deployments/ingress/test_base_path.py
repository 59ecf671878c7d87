"""Addresses in answers lead back through the reverse proxy that a request came through."""

from __future__ import annotations

import json

import httpx
import pytest
import websockets.sync.client
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from deployments.errors import install_error_handlers
from deployments.ingress.base_path import BasePathMiddleware
from deployments.ingress.lost_replica import LostReplicaMiddleware
from deployments.ingress.request_rules import install_request_rules
from deployments.ingress.status_routes import WEB_FOLDER
from deployments.ingress.status_routes import router as status_router
from tests.prefix_proxy import prefix_proxy
from tests.serving import PATIENCE_S

PREFIX = "/user/me/proxy/8000"


def test_addresses_of_worlds_respect_the_prefix_that_a_proxy_names(address, nobody_else):
    with prefix_proxy(address, PREFIX, names_prefix=True) as base, httpx.Client(timeout=PATIENCE_S) as client:
        begun = client.post(f"{base}/v1/sessions", json={"prompt": "a forest", "seed": 1})
        session = begun.json()
        stream = f"{PREFIX}/v1/sessions/{session['id']}/stream"
        assert session["stream_url"] == stream
        # The proxy's clients are not on the server's machine, whatever Host they send.
        assert session["direct_stream_url"] is None
        assert client.get(f"{base}/v1/status").json()["direct_url"] is None
        assert client.get(f"{base}/v1/sessions/{session['id']}").json()["stream_url"] == stream
        assert stream in [one["stream_url"] for one in client.get(f"{base}/v1/sessions").json()["sessions"]]
        assert client.get(f"{base}/openapi.json").json()["servers"] == [{"url": PREFIX}]
        with websockets.sync.client.connect(f"ws://{begun.url.host}:{begun.url.port}{stream}") as socket:
            socket.send(json.dumps({"type": "hello", "token": session["resume_token"]}))
            while (message := json.loads(socket.recv(timeout=PATIENCE_S)))["type"] != "welcome":
                pass
            assert message["stream_url"] == stream
        assert client.delete(f"{base}/v1/sessions/{session['id']}").status_code == 204
        # The same server answers those who reach it without the proxy.
        assert client.get(f"{address}/openapi.json").json().get("servers") is None


@pytest.mark.parametrize("names_prefix", [True, False])
def test_addresses_of_clips_lead_back_through_the_proxy(clip_server, names_prefix):
    told = PREFIX if names_prefix else ""
    with (
        prefix_proxy(clip_server.url, PREFIX, names_prefix=names_prefix) as base,
        httpx.Client(timeout=PATIENCE_S) as client,
    ):
        order = {"prompt": "a clip behind a proxy", "num_frames": 4}
        for path in ("/v1/videos", "/api/v1/generate"):
            placed = client.post(base + path, json=order)
            video_url = placed.url.join(placed.headers["Location"])
            assert video_url == f"{base}/v1/videos/{placed.json()['id']}"
        events = client.get(f"{video_url}/stream").text
        *_, last = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
        video = client.get(video_url).json()
        listed = client.get(f"{base}/v1/videos").json()["data"][0]
        for shown in (last, video, listed):
            assert shown["content_url"] == f"{told}/v1/videos/{video['id']}/content"
            assert shown["thumbnail_url"] == f"{told}/v1/videos/{video['id']}/thumbnail"
        assert client.get(f"{base}/v1/videos/nobody").json()["type"] == f"{told}/docs#unknown_video"
        with websockets.sync.client.connect(f"{video_url}/progress".replace("http", "ws")) as socket:
            *_, told_last = [json.loads(message) for message in socket]
        assert told_last["video"]["content_url"] == video["content_url"]
        # Redirects stay below the prefix, and on the host that was asked.
        redirect = client.get(f"{base}/v1/videos/?limit=1")
        assert redirect.status_code == 307
        assert redirect.url.join(redirect.headers["Location"]) == f"{base}/v1/videos?limit=1"


async def test_errors_found_before_and_behind_the_routes_lead_back_too(monkeypatch):
    monkeypatch.delenv("GAMEGEN_API_KEYS", raising=False)

    async def break_down() -> None:
        raise RuntimeError("a fault")

    app = FastAPI()
    app.get("/broken")(break_down)
    app.post("/")(break_down)
    install_error_handlers(app)
    install_request_rules(app, ["https://play.example"])
    app.add_middleware(BasePathMiddleware)
    transport = httpx.ASGITransport(LostReplicaMiddleware(app), raise_app_exceptions=False)
    forwarded = {"X-Forwarded-Prefix": PREFIX}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for request, code in (
            (client.get("/none", headers=forwarded), "not_found"),
            (client.get("/", headers=forwarded), "method_not_allowed"),
            (client.get("/broken", headers=forwarded), "internal_error"),
            (client.post("/", content=b" " * (13 << 20), headers=forwarded), "body_too_large"),
            (
                client.post("/", content=b"x", headers={**forwarded, "Content-Type": "text/x"}),
                "unsupported_media_type",
            ),
            (client.get("/", headers={**forwarded, "Origin": "https://evil.example"}), "foreign_origin"),
            (client.get("/", headers={**forwarded, "Host": "evil.example"}), "foreign_host"),
        ):
            answer = await request
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json()["type"] == f"{PREFIX}/docs#{code}"
        assert f"see {PREFIX}/docs" in (await client.get("/none", headers=forwarded)).json()["detail"]
        # A page that the proxy serves under its own name may use the server once that name is allowed.
        own = {**forwarded, "Host": "play.example", "Origin": "https://play.example"}
        assert (await client.get("/none", headers=own)).json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("header", "root_path", "base_path"),
    [
        ("/x", "", "/x"),
        ("/x/", "", "/x"),
        ("/x/y-1.z", "/game", "/x/y-1.z/game"),
        ("/game", "/game", "/game"),  # The proxy left it in place.
        ("", "/game", "/game"),
        ("//evil.example", "", ""),
        ("https://evil.example", "", ""),
        ("/x\\y", "", ""),
        ("/" + "x" * 300, "", ""),
        ("/v1", "", "/v1"),
    ],
)
async def test_only_paths_are_taken_for_a_prefix(header, root_path, base_path):
    async def echo(scope, receive, send):
        body = json.dumps([scope["root_path"], scope["path"], scope["raw_path"].decode()]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    transport = httpx.ASGITransport(BasePathMiddleware(echo), root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        answer = await client.get(f"{root_path}/v1/videos", headers={"X-Forwarded-Prefix": header})
    assert answer.json() == [base_path, f"{base_path}/v1/videos", f"{base_path}/v1/videos"]


@pytest.mark.parametrize("path", ["/game/", "/game/docs", "/game/static/main.js"])
async def test_the_page_is_served_below_the_route_prefix_of_serve(path):
    app = FastAPI()
    app.include_router(status_router)
    app.mount("/static", StaticFiles(directory=WEB_FOLDER))
    app.add_middleware(BasePathMiddleware)
    transport = httpx.ASGITransport(app, root_path="/game")
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        answer = await client.get(path)
        assert answer.status_code == 200
        assert 'src="/' not in answer.text and 'href="/' not in answer.text
        for asked, meant in (("/game/docs/", "/game/docs"), ("/game", "/game/")):
            redirect = await client.get(asked)
            assert redirect.url.join(redirect.headers["Location"]) == f"http://host{meant}"
