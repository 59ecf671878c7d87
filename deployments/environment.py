"""Ray's environment for this application. Imported before `ray` by whatever starts a cluster.

`python -m deployments.environment` prints what each node of a cluster of several machines sets before `ray start`.
"""

from __future__ import annotations

import os

_SEVERAL_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
ENVIRONMENT = {
    # Routers and user code share one event loop and talk over gRPC: a call between replicas takes a third.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # It would also write logs in thousands of lines: a warning came hours late, or never from a replica that dies.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # That mode also opens a port on each ingress replica and drains it for 30 s at shutdown; the proxy is
    # enough.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    # Ray would give its workers the lowest priority but one, and a browser beside them would starve the world.
    "RAY_worker_niceness": "0",
    # A snapshot of a large world passes the default of 4 MB.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 1024 * 1024),
    # How the proxy treats sockets, see there.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy.configure",
    # Whoever reaches a port of Ray can run code on it; the token is made when a cluster first starts here.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The name is misleading: 0 makes Ray a single-machine one, which listens on the loopback address alone.
    _SEVERAL_MACHINES: "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

FAULT_TOLERANCE = {
    # A raylet that was killed is noticed after 3 to 4 s instead of 15 to 20, one that is silent after 18 at most.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    # A proxy that begins slowly beside many replicas is not ended and begun again.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    # So long workers and all that runs on them wait for a head that is away, instead of a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}
"""For every node of a cluster of several whose head keeps its state in Valkey or Redis (RAY_REDIS_ADDRESS)."""


def set_environment() -> None:
    """Sets what is not set already; Ray reads it when it is first imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    for name, value in (ENVIRONMENT | FAULT_TOLERANCE | {_SEVERAL_MACHINES: "1"}).items():
        print(f"export {name}={value}")
