"""Orders and queues for tests."""

from __future__ import annotations

import itertools
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.service.orders.order import Order, Tier
from gamegen.service.orders.records import NewGeneration, Result

_numbers = itertools.count()


def order(**changes: Any) -> Order:
    """A small order, unlike any other unless it is changed to be."""
    values: dict[str, Any] = {
        "model": "nano",
        "prompt": "a castle in the snow",
        "negative_prompt": "",
        "perspective": "third-person",
        "width": 160,
        "height": 96,
        "num_frames": 8,
        "fps": 24,
        "num_steps": 4,
        "guidance_scale": 3.0,
        "seed": next(_numbers),
    }
    return Order(**(values | changes))


def tiny_order(**changes: Any) -> Order:
    """An order of three chunks of the tests' tiny model: three, two and two denoising steps."""
    values: dict[str, Any] = {
        "model": "tiny",
        "prompt": "a forest",
        "perspective": "first",
        "width": 32,
        "height": 32,
        "num_frames": 11,
        "num_steps": 2,
        "guidance_scale": 1.0,
        "seed": 3,
    }
    return order(**(values | changes))


def new(account: str = "ann", millicredits: int = 100, **changes: Any) -> NewGeneration:
    """Such an order on its way into the queue, of ten steps."""
    values: dict[str, Any] = {
        "id": f"video_{next(_numbers)}",
        "account": account,
        "order": order(),
        "body_hash": "same",
        "num_steps": 10,
        "millicredits": millicredits,
        "tier": Tier.STANDARD,
    }
    return NewGeneration(**(values | changes))


def result(generation_id: str) -> Result:
    """The files of a clip."""
    return Result(
        content_key=f"videos/{generation_id}/clip.mp4",
        content_bytes=1000,
        content_sha256="c" * 64,
        frames_sha256="f" * 64,
        thumbnail_key=f"videos/{generation_id}/thumbnail.jpg",
    )


async def rows(engine: AsyncEngine, statement: str, **values: Any) -> list[Any]:
    """What the database says."""
    async with engine.connect() as connection:
        return list((await connection.execute(text(statement), values)).all())


async def check_books(engine: AsyncEngine) -> None:
    """Every balance is the sum of its ledger, and what has ended has cost what was not paid back."""
    wrong = await rows(
        engine,
        """
        select a.id, a.balance_millicredits, coalesce(sum(l.millicredits), 0) as entered
        from accounts a left join credits_ledger l on l.account = a.id
        group by a.id having a.balance_millicredits <> coalesce(sum(l.millicredits), 0)
        """,
    )
    assert not wrong, f"balances that the ledger does not explain: {wrong}"
    wrong = await rows(
        engine,
        """
        select g.id, g.state, g.millicredits, coalesce(sum(l.millicredits), 0) as entered
        from generations g left join credits_ledger l on l.generation_id = g.id
        group by g.id having g.millicredits <> -coalesce(sum(l.millicredits), 0)
        """,
    )
    assert not wrong, f"orders whose cost the ledger does not explain: {wrong}"
