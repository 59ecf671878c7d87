"""How a job finds its Ray and shows what it is doing."""

from __future__ import annotations

import os

import ray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def connect() -> None:
    """Joins the cluster of `RAY_ADDRESS` (set inside a submitted job) or starts a local one."""
    if not ray.is_initialized():
        # Nobody takes a machine away from a Ray that lives on this one alone; a cluster's says so by its address.
        if "RAY_ADDRESS" not in os.environ:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        ray.init(include_dashboard=False)
    # A bar of our own counts clips; Ray Data's counts blocks, and writes a page into logs every ten seconds.
    ray.data.DataContext.get_current().enable_progress_bars = False


def progress_bar() -> Progress:
    """What is being done, how much of it is done, and the time left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
