"""`gamegen play` as people start it, on machines that are not as one would wish."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving import PATIENCE_S, free_port

PROXY = "http://proxy.invalid:3128"
LONG = "jobs-of-a-scheduler-that-writes-out-whole-names-of-users"


class Started:
    """A running `gamegen play` with the tiny model, in a session of its own."""

    def __init__(self, port: int, model: Path, data: Path) -> None:
        self._data = data
        temporary = data / LONG
        temporary.mkdir()
        variables = {
            "XDG_DATA_HOME": str(data),
            "TMPDIR": str(temporary),
            "HTTP_PROXY": PROXY,
            "HTTPS_PROXY": PROXY,
            "ALL_PROXY": PROXY.replace("http", "socks5"),
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
        }
        environment = {n: v for n, v in os.environ.items() if n.lower() not in ("no_proxy", "ray_tmpdir")}
        words = ("play", "--host", "::1", "--port", str(port), "--model", str(model))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gamegen.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=environment | variables,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def until(self, words: str) -> None:
        """Waits until it has printed something."""
        give_up_at = time.monotonic() + PATIENCE_S
        while words not in self.output:
            assert self.process.poll() is None and time.monotonic() < give_up_at, self.output
            time.sleep(0.05)

    def end(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(5)
        return code

    def left(self) -> list[str]:
        """Names of the processes of its session, and of its stores, which have sessions of their own."""
        names = []
        for process in psutil.process_iter(["pid", "name"]):
            try:
                is_its = os.getsid(process.pid) == self.process.pid
                is_its = is_its or process.cwd().startswith(str(self._data))
                if is_its and process.status() != psutil.STATUS_ZOMBIE:
                    names.append(process.info["name"])
            except (ProcessLookupError, psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return names


@pytest.fixture
def started(tiny_model: Path, tmp_path: Path) -> Iterator[Started]:
    server = Started(free_port(), tiny_model, tmp_path)
    yield server
    for process in psutil.Process(server.process.pid).children(recursive=True) if server.left() else []:
        process.kill()
    server.process.kill()
    server.process.wait()


def test_it_starts_through_no_proxy_and_says_what_took_the_time(started):
    started.until("Ctrl-C stops it")
    url = re.search(r"ready in \d+ s: (http://\[::1\]:\d+)/", started.output)
    assert url, started.output
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{url[1]}/healthz").status_code == 200
    for step in ("loading", "starting the stores", "starting Ray", "starting the replicas: ", "first frame"):
        assert re.search(rf"^ *\d+ s  .*{step}", started.output, re.MULTILINE), started.output
    logs = re.search(r"Logs are in (\S+),", started.output)
    assert logs and (Path(logs[1]) / "serve").is_dir()
    assert started.end() == 0
    assert started.left() == []
    assert len(started.output.splitlines()) == 8, started.output


def test_a_signal_while_ray_starts_leaves_nothing_behind(started):
    started.until("starting the stores")
    time.sleep(1.0)
    assert started.end() == 0
    assert started.left() == []
    assert "***" not in started.output and "Traceback" not in started.output, started.output
