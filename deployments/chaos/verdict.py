"""What became of all orders, from the database and the object store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import text

from deployments.chaos.crowd import Crowd
from deployments.chaos.history import Entry, History, read
from deployments.chaos.jobs import Job
from deployments.places import Places
from gamegen.database.connection import connect_blocking
from gamegen.storage.interface import StorageError
from gamegen.storage.objects import ObjectStore, open_store
from gamegen.videos.states import State

_ORDERS = text("select id, request_id, state, frames_sha256, content_key, content_sha256 from generations")
_EVENTS = text(
    """
    select generation_id, kind, state, fence, data from events
    where kind in ('state', 'progress', 'checkpoint') order by generation_id, id
    """
)


@dataclass(frozen=True)
class Verdict:
    """`completed` of `jobs` ended well, `interrupted` of them were taken up again by another generator, or the same.

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
    places: Places,
    jobs: Sequence[Job],
    crowd: Crowd,
    expected: Mapping[str, str],
    most_repeated: int,
) -> Verdict:
    """Looks at everything; `expected` has the SHA-256 of each request's frames."""
    engine = connect_blocking(places.database_url)
    with engine.connect() as connection:
        orders = connection.execute(_ORDERS).all()
        events = connection.execute(_EVENTS).all()
    engine.dispose()
    histories = {
        key: read([Entry.of(row) for row in rows])
        for key, rows in groupby(events, key=lambda row: row.generation_id)
    }
    faults = [*crowd.errors, *_missing(jobs, crowd, orders)]
    store = open_store(places.objects_url)
    for order in orders:
        found = _faults(order, histories.get(order.id, History()), store, expected, most_repeated)
        faults += [f"{order.request_id}: {fault}" for fault in found]
    return Verdict(
        jobs=len(jobs),
        completed=sum(order.state == State.COMPLETED for order in orders),
        same=sum(order.frames_sha256 == expected.get(order.request_id) for order in orders),
        interrupted=sum(bool(history.repeated) for history in histories.values()),
        repeated=sorted(steps for history in histories.values() for steps in history.repeated),
        faults=faults,
    )


def _missing(jobs: Sequence[Job], crowd: Crowd, orders: Sequence[Any]) -> list[str]:
    """Orders that clients were told of and are not there, or that nobody asked for."""
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
