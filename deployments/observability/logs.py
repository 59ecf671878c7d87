"""The folder of the log files of a local Ray."""

from __future__ import annotations

from pathlib import Path


def server_logs() -> Path | None:
    """The folder of the logs of this process's Ray, None without one; those of the replicas are in `serve` there."""
    from ray._private.worker import global_worker

    return Path(global_worker.node.get_logs_dir_path()) if global_worker.node else None
