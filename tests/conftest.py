"""Fixtures that more than one test file uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.environment import set_environment

# Ray reads these when it is first imported, and this file is imported before any test.
set_environment()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One small local Ray for the whole session: starting one takes seconds, so tests share it."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, ignore_reinit_error=True, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def serve_address(ray_cluster: None) -> Iterator[str]:
    """The address at which Ray Serve answers; what it serves is up to each folder's tests."""
    from ray import serve

    from tests.serving import free_port

    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, every part at its smallest."""
    from gamegen.models.checkpoint import ModelConfig, save_random

    folder = tmp_path_factory.mktemp("tiny")
    save_random(folder, ModelConfig.tiny())
    return folder
