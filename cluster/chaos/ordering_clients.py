"""Concurrent clients that order clips and wait for them, whatever happens to the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from gamegen_client import Client

from cluster.chaos.order_requests import OrderRequest

_TRIES = 60
"""Attempts of one request: the clients wait for a server that restarts."""
_ORDERED_AT_ONCE = 3
_JOIN_INTERVAL_S, _HELD_INTERVAL_S = 0.5, 0.05


class OrderingClients:
    """`num_clients` threads share the jobs; each orders some, waits until they have ended, and orders the next."""

    def __init__(self, url: str, jobs: Sequence[OrderRequest], num_clients: int) -> None:
        self._url = url
        self._shares = [jobs[number::num_clients] for number in range(num_clients)]
        self._lock = threading.Lock()
        self.accepted: dict[str, str] = {}
        """Video id of each accepted request."""
        self.ended: dict[str, str] = {}
        """State in which each video ended, as its client saw it."""
        self.errors: list[str] = []
        """Errors that ended a client."""

    def run(self, timeout_s: float, is_held: Callable[[], bool]) -> None:
        """Runs all clients until they are done or time is up; while `is_held` returns true nothing more is ordered."""
        threads = [
            threading.Thread(target=self._order_all, args=(share, is_held), daemon=True)
            for share in self._shares
        ]
        for thread in threads:
            thread.start()
        give_up_at = time.monotonic() + timeout_s
        while any(thread.is_alive() for thread in threads):
            if time.monotonic() > give_up_at:
                self.errors.append(f"time was up after {timeout_s:g} s")
                return
            time.sleep(_JOIN_INTERVAL_S)

    def _order_all(self, share: Sequence[OrderRequest], is_held: Callable[[], bool]) -> None:
        try:
            with Client(self._url, max_retries=_TRIES) as client:
                for start in range(0, len(share), _ORDERED_AT_ONCE):
                    while is_held():
                        time.sleep(_HELD_INTERVAL_S)
                    self._order(client, share[start : start + _ORDERED_AT_ONCE])
        # Told with the figures: other clients go on.
        except Exception as error:
            with self._lock:
                self.errors.append(f"{type(error).__name__}: {error}")

    def _order(self, client: Client, jobs: Sequence[OrderRequest]) -> None:
        videos = []
        for job in jobs:
            videos.append(client.create(request_id=job.request_id, **job.body())["id"])
            with self._lock:
                self.accepted[job.request_id] = videos[-1]
        for video in videos:
            state = client.wait(video)["state"]
            with self._lock:
                self.ended[video] = state
