"""Ray's environment variables for this application, set before `ray` is first imported.

`python -m deployments.environment` prints what each node of a cluster of several machines sets before `ray start`.
"""

from __future__ import annotations

import os

from gamegen.process.proxies import bypass_loopback
from gamegen.telemetry import SWITCHES

_SEVERAL_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
ENVIRONMENT = {
    **SWITCHES,
    # Routers and user code share one event loop and talk over gRPC: a call between replicas takes a third.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # That mode also buffers thousands of log lines: a warning came hours late, or never from a replica that dies.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # That mode also opens a port on each ingress replica and drains it for 30 s at shutdown; the proxy is enough.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    # Ray starts its workers at niceness 15, and a browser on the same machine would starve the world.
    "RAY_worker_niceness": "0",
    # A snapshot of a large world passes the default of 4 MB.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 1024 * 1024),
    # WebSocket limits and answers for lost replicas.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.ingress.proxy.configure",
    # Any client of a Ray port can run code on it; the token is made when a cluster first starts on this machine.
    "RAY_AUTH_MODE": "token",
    # The name is misleading: 0 makes Ray a single-machine one, which listens on the loopback address alone.
    _SEVERAL_MACHINES: "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

FAULT_TOLERANCE = {
    # A killed raylet is detected after 3 to 4 s instead of 15 to 20, a silent one after 18 s at most.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    # A proxy that starts slowly beside many replicas is not restarted.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    # Workers and their actors wait this long for a lost head, instead of a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}
"""Variables for every node of a cluster whose head keeps its state in Valkey or Redis (RAY_REDIS_ADDRESS)."""


def set_environment() -> None:
    """Sets the variables that are not set already; Ray reads them when it is first imported.

    Ray's processes talk to each other past the proxies of the environment.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    bypass_loopback()


if __name__ == "__main__":
    for name, value in (ENVIRONMENT | FAULT_TOLERANCE | {_SEVERAL_MACHINES: "1"}).items():
        print(f"export {name}={value}")
