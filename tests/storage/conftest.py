"""An S3 service that checks signatures, which the one in memory does not: `rclone serve s3`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gamegen.storage.objects import S3Store
from tests.serving import free_port

ACCESS_KEY, SECRET_KEY = "tester", "correct-secret"


@pytest.fixture(scope="session")
def signing_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running service with one bucket, `worlds`."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "worlds").mkdir()
    # Installed by pip beside Python itself, whose folder need not be on the path.
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert rclone, "rclone is not installed: run make install"
    address = f"127.0.0.1:{free_port()}"
    arguments = ["--config", os.devnull, "--addr", address, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    with subprocess.Popen(
        [rclone, "serve", "s3", *arguments, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        _wait_until_it_answers(f"http://{address}", server)
        yield f"http://{address}"
        server.terminate()


@pytest.fixture
def signing_store(signing_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """An empty store in that bucket, with credentials that are right."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name, value in {
        "OBJECT_STORE_ENDPOINT": signing_endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    store = S3Store("worlds", "clips")
    yield store
    store.delete_many(list(store.keys("")))


def _wait_until_it_answers(address: str, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None, "rclone ended at once"
        try:
            httpx.get(address)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("rclone did not answer within half a minute")
