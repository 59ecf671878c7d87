"""API keys: whose a request is, and who sees what."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import websockets

from deployments.videos.api_keys import LOCAL, ApiKeys
from gamegen.service.orders.tiers import QueueSettings
from tests.clip_server import ClipServer
from tests.conftest import new_database
from tests.deployments.videos.helping import ended, ordered

ROOM = QueueSettings(new_account_credits=20, max_waiting_of_account=8, max_waiting=12)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    lines = ["# account sha256", "", f"ada {digest('a-key')}", f"ada {digest('its-successor')} # since May"]
    file.write_text("\n".join([*lines, f"bob {digest('b-key')}"]))
    return file


@pytest.fixture
def server(
    database_server: str, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClipServer]:
    monkeypatch.setenv("GAMEGEN_API_KEYS", str(keys))
    folder = tmp_path / "objects"
    folder.mkdir()
    with (
        contextmanager(new_database)(database_server, "template") as url,
        ClipServer(url, folder, ROOM, max_orders_per_s=6).running() as server,
    ):
        yield server


def as_account(server: ClipServer, key: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60, headers={"Authorization": f"Bearer {key}"})


async def test_accounts_see_their_own_alone(server):
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic a-key"}):
        for path in ("/v1/videos", "/v1/videos/video_0", "/v1/videos/video_0/stream", "/v1/credits"):
            answer = httpx.get(f"{server.url}{path}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
    with (
        as_account(server, "a-key") as ada,
        as_account(server, "its-successor") as also,
        as_account(server, "b-key") as bob,
    ):
        video = ended(ada, ordered(ada, num_frames=4)["id"])
        assert also.get(f"/v1/videos/{video['id']}").json() == video
        for path in ("", "/content", "/thumbnail", "/stream", "/deliveries"):
            assert bob.get(f"/v1/videos/{video['id']}{path}").status_code == 404
        assert bob.delete(f"/v1/videos/{video['id']}").status_code == 404
        assert bob.get("/v1/videos").json()["total"] == 0
        assert bob.get("/v1/credits").json()["account"] == "bob"
    async with websockets.connect(f"ws{server.url[4:]}/v1/videos/{video['id']}/progress") as socket:
        await socket.wait_closed()
    assert socket.close_code == 4401


def test_an_account_places_so_many_orders_a_second(server):
    with as_account(server, "a-key") as ada, as_account(server, "b-key") as bob:
        for _ in range(50):
            answers = [ada.post("/v1/videos", json={"prompt": "a", "num_frames": 4}) for _ in range(12)]
            refused = [answer for answer in answers if answer.json().get("code") == "too_many_orders"]
            if refused:
                break
        assert (refused[0].status_code, refused[0].headers["retry-after"]) == (429, "1")
        assert bob.post("/v1/videos", json={"prompt": "a", "num_frames": 4}).status_code == 202


def test_there_is_room_for_so_many_orders(server):
    with as_account(server, "a-key") as ada, as_account(server, "b-key") as bob:
        for client, status, code in ((ada, 429, "account_full"), (bob, 503, "queue_full")):
            refused = waiting_until_refused(client)
            assert (refused.status_code, refused.json()["code"]) == (status, code)
            assert int(refused.headers["retry-after"]) > 0


def waiting_until_refused(client: httpx.Client) -> httpx.Response:
    """What is answered when there is no room, which the server counts now and then."""
    for _ in range(200):
        answer = client.post("/v1/videos", json={"prompt": "wait", "num_frames": 4})
        if answer.status_code != 202 and answer.json()["code"] != "too_many_orders":
            return answer
        time.sleep(0.02)
    raise AssertionError("there was room for all")


def test_a_file_of_keys_is_checked(tmp_path, keys, monkeypatch):
    monkeypatch.setenv("GAMEGEN_API_KEYS", str(keys))
    assert [name for name, _ in ApiKeys.from_environment().digests] == ["ada", "ada", "bob"]
    monkeypatch.delenv("GAMEGEN_API_KEYS")
    assert ApiKeys.from_environment().digests == ()
    assert LOCAL == "local"
    bad = tmp_path / "bad"
    for text, word in (("", "no keys"), ("ada secret-key\n", "line 1"), (f"a/b {digest('k')}", "line 1")):
        bad.write_text(text)
        with pytest.raises(ValueError, match=word) as caught:
            ApiKeys.read(bad)
        assert "secret-key" not in str(caught.value)
