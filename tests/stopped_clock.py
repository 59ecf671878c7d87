"""A clock for tests of what depends on time."""

from __future__ import annotations


class StoppedClock:
    """Stands in for the module `time`, still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def time(self) -> float:
        """The same."""
        return self.now
