"""Loopback addresses are reached past the proxies of the environment; errors name the proxy in between."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator

import httpx
import pytest
import websockets.proxy
import websockets.uri
from gamegen_client.errors import UnavailableError
from gamegen_client.transport import Transport

from gamegen.process.error_sentences import describe
from gamegen.process.proxies import bypass_loopback, is_loopback, proxy_words
from loadtest.players.socket_player import Server

PROXY = "http://clerk:secret@proxy.invalid:3128"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose proxy answers nothing."""
    for name in (*VARIABLES, "NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
        monkeypatch.setenv(name.lower(), "")
        monkeypatch.delenv(name.lower())
    for name in VARIABLES:
        monkeypatch.setenv(name, PROXY)


@pytest.fixture(params=["127.0.0.1", "localhost", "::1"])
def local_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server on this machine that answers everything with an empty object."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    class AnyFamily(http.server.ThreadingHTTPServer):
        address_family = 10 if ":" in request.param else 2

    with AnyFamily((request.param, 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"[{request.param}]" if ":" in request.param else request.param
        yield f"http://{host}:{server.server_port}"
        server.shutdown()


def test_every_client_reaches_this_machine_past_a_proxy(proxied, local_url):
    bypass_loopback()
    assert httpx.get(local_url).json() == {}
    assert Server(local_url).status() == {}
    address = websockets.uri.parse_uri(local_url.replace("http", "ws") + "/v1")
    assert websockets.proxy.get_proxy(address) is None


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_the_client_package_needs_no_preparation(proxied, local_url, monkeypatch, kind):
    for name in VARIABLES:
        monkeypatch.setenv(name, PROXY.replace("http", kind))
    transport = Transport(local_url, api_key=None, timeout_s=5, max_retries=0)
    assert transport.send("GET", "/v1/videos").json() == {}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "localhost,127.0.0.1,::1"),
        ("intern.example, localhost", "intern.example,localhost,127.0.0.1,::1"),
        ("[::1],10.0.0.0/8", "::1,10.0.0.0/8,localhost,127.0.0.1"),
        ("*", "*"),
    ],
)
def test_what_the_environment_excludes_stays(proxied, monkeypatch, given, expected):
    monkeypatch.setenv("NO_PROXY", given)
    bypass_loopback()
    bypass_loopback()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == expected


def test_an_unreachable_address_names_the_proxy_without_its_password(proxied):
    bypass_loopback()
    with pytest.raises(
        OSError, match=r"through the proxy http://proxy\.invalid:3128 of HTTP_PROXY"
    ) as refused:
        Server("http://worlds.example").status()
    with pytest.raises(httpx.ConnectError) as failed:
        httpx.get("https://worlds.example")
    with pytest.raises(UnavailableError) as unavailable:
        Transport("http://worlds.example", api_key=None, timeout_s=5, max_retries=0).send("GET", "/")
    for error in (refused.value, failed.value, unavailable.value):
        sentence = describe(error).sentence
        assert "worlds.example cannot be reached through the proxy http://proxy.invalid:3128" in sentence
        assert "secret" not in sentence


def test_addresses_of_this_machine_are_known():
    for host in ("localhost", "127.0.0.1", "127.8.0.1", "::1", "[::1]"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "10.0.0.1", "localhost.example", "::"):
        assert not is_loopback(host), host


def test_an_address_without_a_proxy_names_none(proxied, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example")
    bypass_loopback()
    assert proxy_words("http://worlds.example") == ""
