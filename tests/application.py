"""Fixtures of the running application that tests of several folders share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.stores import StoreUrls
from tests.serving import PATIENCE_S, Application, end_sessions, tiny_settings


@pytest.fixture(scope="session")
def application(serve_address: str) -> Iterator[Application]:
    """The application on the tests' Ray Serve, whichever the test's module asks for."""
    application = Application(serve_address)
    yield application
    application.stop()


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint like `tiny_model` with a gallery, which most tests leave alone: they share one application."""
    from gamegen.models.checkpoint import load_checkpoint
    from gamegen.models.text import load_text_encoder
    from tests.conftest import save_tiny
    from tests.gallery.samples import tiny_gallery

    folder = tmp_path_factory.mktemp("served")
    save_tiny(folder)
    gallery = tiny_gallery(folder / "encoded", load_checkpoint(folder).model, load_text_encoder())
    gallery.save(folder / "gallery")
    return folder


@pytest.fixture(scope="module")
def address(application: Application, stores: StoreUrls, served_model: Path) -> str:
    """The address of the application, served by Ray with the tiny model."""
    return application.serve(tiny_settings(served_model), stores)


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    """A REST client."""
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
def usual_start() -> str | None:
    """The `start` of a session that names none; None takes the server's default."""
    return "drawn"


@pytest.fixture
def begin(
    client: httpx.Client, nobody_else: None, usual_start: str | None
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Begins a world and returns the answer's body; the worlds end with the test."""
    opened = []

    def begin(**body: object) -> dict[str, Any]:
        if usual_start and not body.keys() & {"branch", "image", "video", "gallery_id"}:
            body = {"start": usual_start, **body}
        response = client.post("/v1/sessions", json={"prompt": "a green forest", **body})
        assert response.status_code == 201, response.text
        opened.append(response.json()["id"])
        return response.json()

    yield begin
    for session_id in opened:
        client.delete(f"/v1/sessions/{session_id}")


@pytest.fixture
def nobody_else(address: str) -> None:
    """Ends what earlier tests left: whoever just closed a socket keeps a place for some seconds."""
    end_sessions(address)
