"""Which objects the rows of orders name, and for how long they need them."""

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

from gamegen.database.tables import checkpoints, generations
from gamegen.videos.states import FINAL, State

VIDEOS_PREFIX, INPUTS_PREFIX = "videos/", "inputs/"

_image_key = generations.c.order["image_key"].astext
_source_key = generations.c.order["source_key"].astext


def is_final() -> ColumnElement[bool]:
    """Nothing follows the order's state."""
    return generations.c.state.in_(sorted(FINAL))


def needs_objects() -> ColumnElement[bool]:
    """It is still to be drawn, or its clip is still given out."""
    ended_without = sorted(FINAL - {State.COMPLETED})
    return and_(generations.c.state.not_in(ended_without), generations.c.expired_at.is_(None))


def needed_inputs(keys: Sequence[str]) -> CompoundSelect:
    """Of some inputs, those that an order needs: one column, `key`."""
    return union(
        *(select(key.label("key")).where(key.in_(keys), needs_objects()) for key in (_image_key, _source_key))
    )


def named_files(keys: Sequence[str]) -> CompoundSelect:
    """Of some clips and thumbnails, those that any order names: one column, `key`."""
    columns = (generations.c.content_key, generations.c.thumbnail_key)
    return union(*(select(key.label("key")).where(key.in_(keys)) for key in columns))


def all_named() -> Select:
    """Every object that is needed: columns `key`, and `sha256` and `size_bytes` where a row tells them; sorted."""
    unknown = (null().cast(Text).label("sha256"), null().cast(BigInteger).label("size_bytes"))
    content = (generations.c.content_sha256.label("sha256"), generations.c.content_bytes.label("size_bytes"))
    files = [
        select(key.label("key"), *known).where(key.is_not(None), needs_objects())
        for key, known in (
            (generations.c.content_key, content),
            (generations.c.thumbnail_key, unknown),
            (_image_key, unknown),
            (_source_key, unknown),
        )
    ]
    steps = select(checkpoints.c.key, *unknown).join(generations).where(~is_final())
    found = union_all(*files, steps).subquery()
    # What several orders name comes once.
    return select(found).distinct(found.c.key).order_by(found.c.key)
