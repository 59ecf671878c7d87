"""Pages of other web sites are refused, bodies are JSON or forms, and every error is a problem."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
import websockets
from fastapi import Body, FastAPI, WebSocket

from deployments.errors import install_error_handlers
from deployments.ingress.lost_replica import LostReplicaMiddleware
from deployments.ingress.request_rules import install_request_rules
from deployments.settings import IngressSettings
from tests.deployments.ingress.test_proxy import serving

EVIL = "https://evil.example"
PLAY = "https://play.example"


def application(allowed_origins: Sequence[str] = (), **options: bool) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    install_request_rules(app, allowed_origins, **options)

    @app.get("/")
    async def read(number: int = 7, name: str | None = None) -> dict[str, Any]:
        return {"number": number, "name": name}

    @app.post("/")
    async def write(body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        return body

    @app.post("/broken")
    async def break_down() -> None:
        raise RuntimeError("a fault")

    @app.websocket("/socket")
    async def greet(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    return app


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(app) as url, httpx.AsyncClient(base_url=url.replace("ws", "http")) as client:
        yield client


def check_problem(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    body = answer.json()
    assert (body["status"], body["code"], body["error"]["code"]) == (status, code, code)
    return body["detail"]


@pytest.fixture(autouse=True)
def without_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("GAMEGEN_API_KEYS", raising=False)
    yield


@pytest.mark.parametrize(
    ("headers", "is_served"),
    [
        ({}, True),
        ({"Origin": EVIL}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "chrome-extension://abc"}, False),
        ({"Origin": "http://"}, False),
        ({"Origin": "http://[", "Host": "["}, False),
        ({"Origin": "http://localhost:8000", "Host": "localhost:8000"}, True),
        ({"Origin": "http://LOCALHOST:8000", "Host": "localhost:8000"}, True),
        ({"Origin": "http://[::1]:8000", "Host": "[::1]:8000"}, True),
        # Behind proxies: the name passed on, TLS that ends there, a port left out, a name of the proxy's own.
        ({"Origin": PLAY, "X-Forwarded-Host": "play.example"}, True),
        ({"Origin": PLAY, "X-Forwarded-Host": "play.example, inner:8000"}, True),
        ({"Origin": f"{PLAY}:8443", "X-Forwarded-Host": "play.example"}, True),
        ({"Origin": PLAY, "X-Forwarded-Host": "play.example:443"}, True),
        ({"Origin": f"{PLAY}:8443", "X-Forwarded-Host": "play.example:9000"}, False),
        ({"Origin": PLAY, "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": PLAY, "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": EVIL, "Sec-Fetch-Site": "cross-site"}, False),
    ],
)
async def test_pages_of_other_sites_are_refused(headers: dict[str, str], is_served: bool) -> None:
    async with client_of(application()) as client:
        for answer in (
            await client.post("/", json={"a": 1}, headers=headers),
            await client.get("/", headers=headers),
        ):
            if is_served:
                assert answer.status_code == 200
            else:
                assert "--allow-origin" in check_problem(answer, 403, "foreign_origin")


async def test_the_page_at_the_server_s_own_address_is_served() -> None:
    async with serving(application()) as url, httpx.AsyncClient(base_url=url.replace("ws", "http")) as client:
        origin = url.replace("ws", "http")
        assert (await client.post("/", json={}, headers={"Origin": origin})).status_code == 200
        async with websockets.connect(f"{url}/socket", origin=origin) as socket:
            assert await socket.recv() == "hello"
        async with websockets.connect(f"{url}/socket") as socket:
            assert await socket.recv() == "hello"


async def test_sockets_of_other_sites_are_refused_with_a_problem() -> None:
    async with serving(application()) as url:
        for origin in (EVIL, "null"):
            with pytest.raises(websockets.InvalidStatus) as caught:
                async with websockets.connect(f"{url}/socket", origin=origin):
                    pass
            answer = caught.value.response
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.status_code, json.loads(answer.body)["code"]) == (403, "foreign_origin")
    async with (
        serving(application(guards_sockets=False)) as url,
        websockets.connect(f"{url}/socket", origin=EVIL) as socket,
    ):
        assert await socket.recv() == "hello"


@pytest.mark.parametrize(
    ("host", "is_served"),
    [
        ("127.0.0.1:9000", True),
        ("localhost", True),
        ("[::1]:80", True),
        ("192.168.1.5", True),
        ("a.localhost:8000", True),
        ("host.docker.internal:8000", True),
        ("gpu-box:8000", True),
        ("play.example", True),
        ("attacker.example", False),
        ("localhost.attacker.example", False),
        ("127.0.0.1.attacker.example", False),
        ("attacker.example:8000", False),
    ],
)
async def test_a_name_that_somebody_may_have_pointed_here_is_refused(host: str, is_served: bool) -> None:
    async with client_of(application([PLAY])) as client:
        # A page under such a name is of the same origin as its requests.
        answer = await client.get("/", headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status_code == 200 if is_served else check_problem(answer, 421, "foreign_host")


async def test_with_keys_any_name_may_be_asked_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMEGEN_API_KEYS", "keys")
    async with client_of(application()) as client:
        assert (await client.get("/", headers={"Host": "play.example"})).status_code == 200


async def test_a_page_elsewhere_can_be_allowed() -> None:
    preflight = {
        "Origin": PLAY,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-request-id",
        "Access-Control-Request-Private-Network": "true",
    }
    async with client_of(application([PLAY, "null"])) as client:
        for origin in (PLAY, "null"):
            asked = await client.options("/", headers={**preflight, "Origin": origin})
            assert asked.status_code == 200
            assert asked.headers["access-control-allow-origin"] == origin
            assert asked.headers["access-control-allow-headers"] == "content-type,x-request-id"
            assert "POST" in asked.headers["access-control-allow-methods"]
            assert asked.headers["access-control-allow-private-network"] == "true"
            answer = await client.post("/", json={"a": 1}, headers={"Origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
            assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        check_problem(await client.options("/", headers={**preflight, "Origin": EVIL}), 403, "foreign_origin")
    async with (
        serving(application([PLAY])) as url,
        websockets.connect(f"{url}/socket", origin=PLAY) as socket,
    ):
        assert await socket.recv() == "hello"


@pytest.mark.parametrize(
    "origin",
    ["https://play.example/", "play.example", "*", "https://Play.example", "https://a.example/b", ""],
)
def test_what_is_no_origin_is_refused_by_the_settings(origin: str) -> None:
    with pytest.raises(ValueError, match="is not an origin: write https"):
        IngressSettings(allowed_origins=(origin,))
    assert IngressSettings(
        allowed_origins=("https://a.example:8443", "tauri://localhost", "null", "http://[::1]:1")
    )


@pytest.mark.parametrize(
    ("kind", "is_read"),
    [
        (None, True),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/vnd.api+json", True),
        # As curl -d sends it.
        ("application/x-www-form-urlencoded", True),
        ("text/plain", False),
        ("text/plain; x=application/json", False),
        ("application/octet-stream", False),
        ("text/json", False),
        ("application/xml", False),
    ],
)
async def test_bodies_are_json_by_their_type(kind: str | None, is_read: bool) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    async with client_of(application()) as client:
        answer = await client.post("/", content=b'{"a": 1}', headers=headers)
        if is_read:
            assert (answer.status_code, answer.json()) == (200, {"a": 1})
        else:
            assert "send JSON as application/json" in check_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
async def test_json_is_read_in_every_encoding_of_unicode(encoding: str) -> None:
    async with client_of(application()) as client:
        headers = {"Content-Type": f"application/json; charset={encoding}"}
        answer = await client.post("/", content='{"prompt": "Wüste"}'.encode(encoding), headers=headers)
        assert answer.json() == {"prompt": "Wüste"}


@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ("number=&name=", {"number": 7, "name": None}),
        ("name=&number=3", {"number": 3, "name": None}),
        ("name=a=&number=", {"number": 7, "name": "a="}),
        ("name=a%3D&number=", {"number": 7, "name": "a="}),
        ("name=x", {"number": 7, "name": "x"}),
    ],
)
async def test_parameters_left_empty_are_left_out(query: str, seen: dict[str, Any]) -> None:
    async with client_of(application()) as client:
        assert (await client.get(f"/?{query}")).json() == seen


async def test_every_error_is_a_problem() -> None:
    async with client_of(application()) as client:
        check_problem(await client.get("/none"), 404, "not_found")
        refused = await client.put("/")
        check_problem(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == "GET, POST"
        check_problem(await client.post("/broken"), 500, "internal_error")
        check_problem(await client.get("/?number=x"), 422, "invalid_request")
        large = await client.post("/", content=b" " * (13 << 20))
        check_problem(large, 413, "body_too_large")


async def test_the_proxy_s_own_errors_are_problems_too() -> None:
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        status = int(scope["path"].strip("/"))
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        await send({"type": "http.response.body", "body": b"thing"})

    async with client_of(LostReplicaMiddleware(plain)) as client:
        check_problem(await client.get("/404"), 404, "not_found")
        busy = await client.get("/503")
        check_problem(busy, 503, "not_ready")
        assert busy.headers["retry-after"] == "1"
        check_problem(await client.get("/500"), 500, "proxy_error")
        assert (await client.get("/200")).text == "something"
    async with client_of(LostReplicaMiddleware(application())) as client:
        assert "see /docs" in check_problem(await client.get("/none"), 404, "not_found")
