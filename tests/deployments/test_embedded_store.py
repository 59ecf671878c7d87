"""The embedded session store touches nothing but its folder, whose path may be anything."""

from __future__ import annotations

import signal
import socket
import stat
from pathlib import Path

import psutil
import pytest
from valkey import Valkey
from valkey.exceptions import AuthenticationError

from deployments import embedded_store as module
from deployments.embedded_store import StoreStartError, embedded_store, embedded_tcp_store


def process_of(client: Valkey) -> psutil.Process:
    return psutil.Process(client.info("server")["process_id"])


@pytest.fixture(params=["plain", "First Last's, $(touch hacked) %41?#`x`\"\\", "x" * 200])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Folders of several kinds."""
    folder = tmp_path / request.param
    folder.mkdir()
    return folder


def test_any_path_will_do_and_only_this_user_can_open_the_socket(folder: Path) -> None:
    with embedded_store(folder) as url, Valkey.from_url(url) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"
        mode = (folder / "valkey.sock").lstat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o700
        main = process_of(client)
        assert not [c for c in main.net_connections() if c.family in (socket.AF_INET, socket.AF_INET6)]
    assert not main.is_running() and not (folder / "valkey.sock").exists()
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_what_a_killed_server_leaves_hinders_nobody(tmp_path: Path) -> None:
    for _ in range(2):
        with embedded_store(tmp_path) as url, Valkey.from_url(url) as client:
            main = process_of(client)
            main.send_signal(signal.SIGKILL)
    with embedded_store(tmp_path) as url, Valkey.from_url(url) as client:
        assert client.ping()


def test_a_password_is_asked_for_from_the_start_and_written_nowhere(tmp_path: Path) -> None:
    with embedded_tcp_store(tmp_path) as (url, password), Valkey.from_url(url) as client:
        main = process_of(client)
        written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert password.encode() not in written and password not in " ".join(main.cmdline())
        # Unlike a setting that came later, this is in force before the first connection.
        assert client.info("server")["config_file"] == ""
        port = client.connection_pool.connection_kwargs["port"]
        with Valkey(port=port) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()


def test_a_port_that_is_taken_meanwhile_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = module._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(module, "_free_port", lambda: ports.pop() if ports else free())
        with embedded_tcp_store(tmp_path) as (url, _), Valkey.from_url(url) as client:
            assert client.ping() and not ports


def test_a_store_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "valkey.sock").mkdir()
    with (
        pytest.raises(StoreStartError, match=r"has ended at once \(.+\): set REDIS_URL"),
        embedded_store(tmp_path),
    ):
        pass
