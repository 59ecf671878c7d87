"""Verdict on all orders of a run, from the database and the object store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import text

from cluster.chaos.history import History, OrderEvent, read
from cluster.chaos.order_requests import OrderRequest
from cluster.chaos.ordering_clients import OrderingClients
from deployments.stores import StoreUrls
from gamegen.service.database.connection import connect_blocking
from gamegen.service.orders.states import State
from gamegen.storage.encryption import open_store
from gamegen.storage.interface import StorageError
from gamegen.storage.objects import ObjectStore

_ORDERS = text("select id, request_id, state, frames_sha256, content_key, content_sha256 from generations")
_EVENTS = text(
    """
    select generation_id, kind, state, fence, data from events
    where kind in ('state', 'progress', 'checkpoint') order by generation_id, id
    """
)


@dataclass(frozen=True, kw_only=True)
class ChaosVerdict:
    """Verdict on `jobs` orders: `completed` ended well, `interrupted` were claimed again after a generator was lost.

    `repeated` are the denoising steps that were drawn again, for each time; `faults` are sentences about everything
    that must not be.
    """

    jobs: int
    completed: int
    same: int
    interrupted: int
    repeated: list[int]
    faults: list[str]


def judge(
    stores: StoreUrls,
    jobs: Sequence[OrderRequest],
    crowd: OrderingClients,
    expected: Mapping[str, str],
    most_repeated: int,
) -> ChaosVerdict:
    """Checks all orders; `expected` has the SHA-256 of each request's frames."""
    engine = connect_blocking(stores.database)
    with engine.connect() as connection:
        orders = connection.execute(_ORDERS).all()
        events = connection.execute(_EVENTS).all()
    engine.dispose()
    histories = {
        key: read([OrderEvent.of(row) for row in rows])
        for key, rows in groupby(events, key=lambda row: row.generation_id)
    }
    faults = [*crowd.errors, *_missing(jobs, crowd, orders)]
    store = open_store(stores.objects)
    for order in orders:
        found = _faults(order, histories.get(order.id, History()), store, expected, most_repeated)
        faults += [f"{order.request_id}: {fault}" for fault in found]
    return ChaosVerdict(
        jobs=len(jobs),
        completed=sum(order.state == State.COMPLETED for order in orders),
        same=sum(order.frames_sha256 == expected.get(order.request_id) for order in orders),
        interrupted=sum(bool(history.repeated) for history in histories.values()),
        repeated=sorted(steps for history in histories.values() for steps in history.repeated),
        faults=faults,
    )


def _missing(jobs: Sequence[OrderRequest], crowd: OrderingClients, orders: Sequence[Any]) -> list[str]:
    """Faults of orders that are missing although clients were told of them, or that no client placed."""
    there = {order.request_id: order.id for order in orders}
    faults = [f"{job.request_id}: it was never accepted" for job in jobs if job.request_id not in there]
    for request_id, video in crowd.accepted.items():
        if there.get(request_id, video) != video:
            faults.append(f"{request_id}: its client was told of {video} and there is {there[request_id]}")
    if len(orders) > len(jobs):
        faults.append(f"there are {len(orders)} orders and {len(jobs)} were placed")
    return faults


def _faults(
    order: Any, history: History, store: ObjectStore, expected: Mapping[str, str], most_repeated: int
) -> list[str]:
    faults = [*history.faults]
    if history.ends != [State.COMPLETED]:
        faults.append(f"it ended as {', '.join(history.ends) or 'nothing'}, and is {order.state}")
        return faults
    if order.frames_sha256 != expected.get(order.request_id):
        faults.append("its frames are not those of an undisturbed run")
    if any(steps > most_repeated for steps in history.repeated):
        faults.append(f"{max(history.repeated)} steps were repeated and {most_repeated} may be")
    try:
        if hashlib.sha256(store.read(order.content_key)).hexdigest() != order.content_sha256:
            faults.append("its file is damaged")
    except StorageError as error:
        faults.append(f"its file cannot be read: {error}")
    return faults
