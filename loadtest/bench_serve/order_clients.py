"""HTTP clients that order clips from a running server, each on its own connection."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 60.0


class OrderClient:
    """HTTP client with one connection that stays open; for one thread."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._http = kind(parts.netloc, timeout=TIMEOUT_S)

    def order(self, body: bytes) -> str:
        """Orders a clip and gives its id; raises ValueError if that is refused."""
        return self._asked("POST", "/v1/videos", body, 202)["id"]

    def look(self, video_id: str) -> dict[str, Any]:
        """A video's state; raises ValueError."""
        return self._asked("GET", f"/v1/videos/{video_id}", None, 200)

    def listed(self, status: str) -> tuple[int, list[dict[str, Any]]]:
        """Number of videos with a status, and the newest of them."""
        found = self._asked("GET", f"/v1/videos?status={status}&limit=1", None, 200)
        return found["total"], found["data"]

    def clip(self, video_id: str) -> bytes:
        """A finished clip's file."""
        return self._answer("GET", f"/v1/videos/{video_id}/content", None, 200)

    def close(self) -> None:
        """Ends the connection; the next request opens another."""
        self._http.close()

    def _asked(self, method: str, path: str, body: bytes | None, status: int) -> dict[str, Any]:
        return json.loads(self._answer(method, path, body, status))

    def _answer(self, method: str, path: str, body: bytes | None, status: int) -> bytes:
        self._http.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = self._http.getresponse()
        text = answer.read()
        if answer.status != status:
            raise ValueError(
                f"{method} {path} answered {answer.status}: {text[:300].decode(errors='replace')}"
            )
        return text


class OrderClients:
    """Pool of clients, one thread each."""

    def __init__(self, url: str, count: int) -> None:
        self._customers = [OrderClient(url) for _ in range(count)]
        self._threads = ThreadPoolExecutor(count, "customers")

    @classmethod
    @contextmanager
    def opened(cls, url: str, count: int) -> Iterator[OrderClients]:
        """Clients whose connections are closed in the end."""
        customers = cls(url, count)
        try:
            yield customers
        finally:
            customers._threads.shutdown(cancel_futures=True)
            customers.rest()

    def rest(self) -> None:
        """Closes the connections, which servers do not keep for long; new ones are opened when they are needed."""
        for customer in self._customers:
            customer.close()

    def each(self, works: Iterable[Any], do: Callable[[OrderClient, Any], None]) -> None:
        """Runs `do` on each of `works` with any free client; raises the first failure."""
        left, lock = iter(works), threading.Lock()

        def work(customer: OrderClient) -> None:
            while True:
                with lock:
                    piece = next(left, None)
                if piece is None:
                    return
                do(customer, piece)

        for done in [self._threads.submit(work, customer) for customer in self._customers]:
            done.result()

    def paced(self, rate_per_s: float, seconds: float, do: Callable[[OrderClient, int], None]) -> list[float]:
        """Runs `do` `rate_per_s` times a second; returns the seconds from each due time to its end.

        A call that starts late because the one before it was slow counts as slow too.
        """
        began_s = time.monotonic() + 0.1
        taken: list[float] = []

        def once(customer: OrderClient, number: int) -> None:
            due_s = began_s + number / rate_per_s
            time.sleep(max(0.0, due_s - time.monotonic()))
            do(customer, number)
            taken.append(time.monotonic() - due_s)

        # From 1: the end of the works is None, which zero is not, but it looks like it.
        self.each(range(1, int(rate_per_s * seconds) + 1), once)
        return taken


def bodies(prompts: int = 16) -> Iterator[bytes]:
    """Request bodies of one-frame clips, no two alike, so that none is answered from an earlier render."""
    first = time.time_ns() // 1000 % (1 << 30)
    for number in itertools.count():
        order = {"prompt": f"a desert, {number % prompts}", "num_frames": 1, "num_steps": 1}
        yield json.dumps(order | {"seed": (first + number) % (1 << 31)}).encode()
