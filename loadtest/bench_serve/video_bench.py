"""Benchmark of the clip service: orders accepted and clips completed a second, and the latency of status requests.

gamegen play --settings noop, then gamegen bench serve --videos
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from gamegen.bench.paired import summary_ms
from loadtest.bench_serve.order_clients import OrderClient, OrderClients, bodies
from loadtest.load.load_report import percentiles
from loadtest.players.socket_player import Server

_LOOKS_EVERY_S = 0.5
_PATIENCE_S = 120.0
_FINAL = ("completed", "failed")


@dataclass(frozen=True, kw_only=True)
class VideoBench:
    """Plan of a run: `orders` are placed by `clients` as fast as possible, then states are read at `looks_per_s`."""

    orders: int = 1000
    clients: int = 16
    looks_per_s: float = 100.0
    seconds: float = 20.0


@dataclass(frozen=True, kw_only=True)
class VideoFigures:
    """Figures over all clients.

    `accepted_per_s` is over the time until the last order was taken, `completed_per_s` over that from the first order
    until the last clip was there. `load` is the machine's load average when it began and when it ended.
    """

    orders: int
    clients: int
    accepted_per_s: float
    accepted_ms: dict[str, float]
    completed_per_s: float
    failed: int
    clip_bytes: int
    looks_per_s: float
    look_ms: dict[str, float]
    cores: int
    load: tuple[float, float]


def direct_url(url: str) -> str:
    """URL of an ingress replica past Serve's proxy; raises ValueError if it has none."""
    found = Server(url).status()["direct_url"]
    if found is None:
        raise ValueError("its replicas have no addresses of their own for this machine: leave --direct out")
    return found


def measure(url: str, bench: VideoBench) -> VideoFigures:
    """Places the orders and reads states; raises ValueError if a request is refused or a clip is not done in time."""
    load_before = os.getloadavg()[0]
    with OrderClients.opened(url, bench.clients) as customers:
        eye = OrderClient(url)
        _wait_for_earlier(eye)
        before = _ended(eye)
        began_s = time.monotonic()
        ids, taken = _order(customers, bench.orders)
        accepted_s = time.monotonic() - began_s
        customers.rest()
        failed = _wait(eye, before, bench.orders)
        completed_s = time.monotonic() - began_s
        clip = eye.clip(ids[-1])
        if clip[4:8] != b"ftyp":
            raise ValueError(f"{ids[-1]} is no MP4: see the server's log")
        looks = customers.paced(
            bench.looks_per_s, bench.seconds, lambda one, number: _look(one, ids[number % len(ids)])
        )
        eye.close()
    return VideoFigures(
        orders=bench.orders,
        clients=bench.clients,
        accepted_per_s=bench.orders / accepted_s,
        accepted_ms=summary_ms(np.array(taken)),
        completed_per_s=(bench.orders - failed) / completed_s,
        failed=failed,
        clip_bytes=len(clip),
        looks_per_s=bench.looks_per_s,
        look_ms=summary_ms(np.array(looks)),
        cores=len(os.sched_getaffinity(0)),
        load=(load_before, os.getloadavg()[0]),
    )


def table(url: str, result: VideoFigures) -> Table:
    """Table of the figures, for the terminal."""
    shown = Table("", "", title=f"{result.orders} clips ordered by {result.clients} clients, {url}")
    rows = {
        "orders accepted a second": f"{result.accepted_per_s:.0f}",
        "until an order was accepted, p50 / p95 / p99": percentiles(result.accepted_ms),
        "clips completed a second, from the first order on": f"{result.completed_per_s:.1f}",
        "failed": str(result.failed),
        "bytes of one": str(result.clip_bytes),
        f"GET of its state at {result.looks_per_s:g} a second, p50 / p95 / p99": percentiles(result.look_ms),
        "cores, the clients' among them": str(result.cores),
        "load average before and after": " / ".join(f"{load:.1f}" for load in result.load),
    }
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


def _order(customers: OrderClients, count: int) -> tuple[list[str], Sequence[float]]:
    """Places the orders; returns their ids, and the seconds that each took to be accepted."""
    ids: list[str] = []
    taken: list[float] = []

    def order(customer: OrderClient, body: bytes) -> None:
        began_s = time.monotonic()
        ids.append(customer.order(body))
        taken.append(time.monotonic() - began_s)

    customers.each(itertools.islice(bodies(), count), order)
    return ids, taken


def _look(customer: OrderClient, video_id: str) -> None:
    if customer.look(video_id)["status"] not in _FINAL:
        raise ValueError(f"{video_id} had ended and has not any more: see the server's log")


def _ended(eye: OrderClient) -> tuple[int, int]:
    """Numbers of this account's completed and failed orders."""
    return eye.listed("completed")[0], eye.listed("failed")[0]


def _wait_for_earlier(eye: OrderClient) -> None:
    """Returns once no order of this account is unfinished: one that ended later would be counted as the benchmark's."""
    give_up_at_s = time.monotonic() + _PATIENCE_S
    while unfinished := sum(eye.listed(status)[0] for status in ("queued", "in_progress")):
        if time.monotonic() > give_up_at_s:
            raise ValueError(
                f"{unfinished} earlier orders of this account are unfinished after {_PATIENCE_S:g} s: "
                "cancel them, or measure with another key"
            )
        time.sleep(_LOOKS_EVERY_S)


def _wait(eye: OrderClient, before: tuple[int, int], orders: int) -> int:
    """Waits until `orders` more have ended; returns how many of them failed."""
    most, last_s = -1, time.monotonic()
    while True:
        completed, failed = (now - then for now, then in zip(_ended(eye), before, strict=True))
        if completed + failed >= orders:
            return failed
        if completed + failed > most:
            most, last_s = completed + failed, time.monotonic()
        elif time.monotonic() - last_s > _PATIENCE_S:
            raise ValueError(f"{most} of {orders} clips ended and no more: see the server's log")
        time.sleep(_LOOKS_EVERY_S)
