"""Queries for the stored objects that orders refer to, and still need."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Select,
    Text,
    and_,
    null,
    select,
    union,
    union_all,
)

from gamegen.service.database.tables import checkpoints, generations
from gamegen.service.orders.states import FINAL, State

VIDEOS_PREFIX, INPUTS_PREFIX = "videos/", "inputs/"

_image_key = generations.c.order["image_key"].astext
_source_key = generations.c.order["source_key"].astext


def is_final() -> ColumnElement[bool]:
    """Condition for orders that have ended."""
    return generations.c.state.in_(sorted(FINAL))


def keeps_objects() -> ColumnElement[bool]:
    """Condition for orders that are unfinished, or whose clip has not expired."""
    ended_without = sorted(FINAL - {State.COMPLETED})
    return and_(generations.c.state.not_in(ended_without), generations.c.expired_at.is_(None))


def referenced_inputs(keys: Sequence[str]) -> CompoundSelect:
    """Those of some input `keys` that an order needs, in one column `key`."""
    return union(
        *(select(key.label("key")).where(key.in_(keys), keeps_objects()) for key in (_image_key, _source_key))
    )


def referenced_files(keys: Sequence[str]) -> CompoundSelect:
    """Those of some clip and thumbnail `keys` that any order refers to, in one column `key`."""
    columns = (generations.c.content_key, generations.c.thumbnail_key)
    return union(*(select(key.label("key")).where(key.in_(keys)) for key in columns))


def all_referenced() -> Select:
    """Every object that an order needs, sorted: `key`, and `sha256` and `size_bytes` where they are known."""
    unknown = (null().cast(Text).label("sha256"), null().cast(BigInteger).label("size_bytes"))
    content = (generations.c.content_sha256.label("sha256"), generations.c.content_bytes.label("size_bytes"))
    files = [
        select(key.label("key"), *known).where(key.is_not(None), keeps_objects())
        for key, known in (
            (generations.c.content_key, content),
            (generations.c.thumbnail_key, unknown),
            (_image_key, unknown),
            (_source_key, unknown),
        )
    ]
    steps = select(checkpoints.c.key, *unknown).join(generations).where(~is_final())
    found = union_all(*files, steps).subquery()
    # An object that several orders share comes once.
    return select(found).distinct(found.c.key).order_by(found.c.key)
