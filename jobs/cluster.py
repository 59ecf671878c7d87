"""Connection of a job to Ray, and its progress bar."""

from __future__ import annotations

import logging
import os

import ray
import ray.data
from ray._private import services
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gamegen.process.ray_machine import prepare_machine
from gamegen.process.signals import call_in_lasting_thread
from gamegen.telemetry import without_usage_server


def connect() -> None:
    """Joins the cluster of `RAY_ADDRESS` (set inside a submitted job) or starts a local one, if there is none yet.

    Raises ValueError with what to set if Ray cannot work on this machine, and KeyboardInterrupt if a signal came;
    from then on each signal that ends a program raises it.
    """
    if not ray.is_initialized():
        # A local Ray has no nodes that could be preempted; a cluster is known by its address.
        if "RAY_ADDRESS" not in os.environ:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            prepare_machine()
        call_in_lasting_thread(_start_ray)
    # A bar of our own counts clips; Ray Data's counts blocks, and writes a page into logs every ten seconds.
    ray.data.DataContext.get_current().enable_progress_bars = False


def _start_ray() -> None:
    with without_usage_server(services):
        ray.init(include_dashboard=False, logging_level=logging.WARNING)


def progress_bar() -> Progress:
    """A progress bar with a description, counts and the remaining time."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
