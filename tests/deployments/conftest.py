"""One running application for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkey.asyncio import Valkey

from deployments.places import Places
from tests.serving import PATIENCE_S, served, tiny_settings


@pytest.fixture(scope="package")
def address(serve_address: str, places: Places, tiny_model: Path) -> Iterator[str]:
    """The address of the application, served by Ray with the tiny model."""
    with served(tiny_settings(tiny_model), places):
        yield serve_address


@pytest.fixture
async def own_url(store_url: str) -> str:
    """An empty database of the server that a running application uses too."""
    url = f"{store_url}?db=1"
    server = Valkey.from_url(url)
    await server.flushdb()
    await server.aclose()
    return url


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    """A REST client."""
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
def begin(client: httpx.Client, nobody_else: None) -> Iterator[Callable[..., dict[str, Any]]]:
    """Begins a world and returns the answer's body; the worlds end with the test."""
    opened = []

    def begin(**body: object) -> dict[str, Any]:
        response = client.post("/v1/sessions", json={"prompt": "a green forest", **body})
        assert response.status_code == 201, response.text
        opened.append(response.json()["id"])
        return response.json()

    yield begin
    for session_id in opened:
        client.delete(f"/v1/sessions/{session_id}")


@pytest.fixture
def nobody_else(client: httpx.Client) -> None:
    """Ends what earlier tests left: whoever just closed a socket keeps a place for some seconds."""
    for session in client.get("/v1/sessions", params={"limit": 100}).json()["sessions"]:
        client.delete(f"/v1/sessions/{session['id']}")
