"""The steps of a start on the terminal: what is being done, and how long each step took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from rich.console import Console


class StoppedError(Exception):
    """The server was told to end while it started."""


class StartSteps:
    """Shows steps as they go, and a line with its seconds for each that is done."""

    def __init__(self, console: Console, told_to_stop: threading.Event) -> None:
        self._console, self._told_to_stop = console, told_to_stop

    @property
    def total_s(self) -> float:
        """Seconds since this process began, with the time to load its code."""
        return time.time() - psutil.Process().create_time()

    def check(self) -> None:
        """Raises StoppedError once the server is told to end."""
        if self._told_to_stop.is_set():
            raise StoppedError

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """A step of the start; what is added to the list stands behind its name. Raises StoppedError before it."""
        self.check()
        details: list[str] = []
        began_s = time.monotonic()
        with self._console.status(name):
            yield details
        self.done(name, time.monotonic() - began_s, details)

    def done(self, name: str, seconds: float, details: list[str]) -> None:
        """Prints the line of a step that is done."""
        text = f"{name}: {', '.join(details)}" if details else name
        self._console.print(f"{seconds:4.0f} s  {text}", style="dim", highlight=False, soft_wrap=True)
