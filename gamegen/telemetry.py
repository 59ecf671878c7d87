"""The switches that keep libraries from reporting to anybody, set when `gamegen` is imported.

A variable that is set already stays as it is. Child processes inherit them all; `python -m deployments.environment`
prints them for the nodes of a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SWITCHES = {
    "DO_NOT_TRACK": "1",
    # ONNX Runtime reports the machine and the program to Microsoft, and keeps an id of the device in the cache folder.
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A cluster whose statistics are off still reports that much: to a port of this machine where nobody listens.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    # Models are folders: transformers looks for nothing, and asks for no newer version, on Hugging Face's servers.
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
"""Environment variables with their values; libraries read them when they are first imported."""


def switch_off() -> None:
    """Sets the variables that are not set yet."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)


@contextmanager
def without_usage_server(services: Any) -> Iterator[None]:
    """Keeps `ray.init(include_dashboard=False)` from starting Ray's usage server.

    That process asks 169.254.169.254 and metadata.google.internal which cloud it runs in, whatever the variables say,
    and does nothing else. Ray has no switch for it. `services` is the module `ray._private.services`.
    """
    start = services.start_api_server
    services.start_api_server = lambda *_, **__: (None, None)
    try:
        yield
    finally:
        services.start_api_server = start
