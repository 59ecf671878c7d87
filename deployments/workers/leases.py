"""Leases on orders: which orders a worker holds, and their renewal and release."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from deployments.observability import video_metrics
from gamegen.service.database.retrying import DatabaseAwayError
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import Claim, LeaseStatus
from gamegen.service.orders.states import State

if TYPE_CHECKING:
    from gamegen.generation.drawing import Drawing

logger = logging.getLogger("ray.serve")

DATABASE_ERRORS = (DatabaseAwayError, SQLAlchemyError, OSError)
"""Raised while the database is away; the work is repeated, or another worker takes it when the lease has ended."""
_RENEWALS_PER_LEASE = 4
_MAX_CHARACTERS = 300


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters; its type if there is no message."""
    text = str(error).strip()
    return text.splitlines()[0][:_MAX_CHARACTERS] if text else type(error).__name__


async def keep_renewing(renew: Callable[[], Awaitable[None]], lease_s: float) -> None:
    """Calls `renew` four times per lease until it is cancelled; one that fails is repeated at the next time."""
    while True:
        await asyncio.sleep(lease_s / _RENEWALS_PER_LEASE)
        try:
            await renew()
        # Whatever the error is: without its leases all that a worker draws is lost.
        except Exception as error:
            logger.warning("leases cannot be renewed: %s", first_line(error))


async def release(queue: VideoQueue, fences: Mapping[str, int]) -> None:
    """Puts orders back into the queue at once; if the database is away, their leases have to end first."""
    try:
        await queue.release(fences)
    except DATABASE_ERRORS as error:
        logger.warning("%d orders are left to their leases: %s", len(fences), first_line(error))


@dataclass(eq=False)
class HeldOrder:
    """An order that a clip worker has claimed, and as much of its clip as is drawn.

    `saved_step` is that of its newest checkpoint. `superseded` are step and key of that one if the next takes its
    place, None if the next goes on from it.
    """

    claim: Claim
    drawing: Drawing | None = None
    saved_step: int = 0
    superseded: tuple[int, str] | None = None
    stages: video_metrics.StageClock = field(
        default_factory=lambda: video_metrics.StageClock(State.GENERATING)
    )

    @property
    def id(self) -> str:
        """The order's id."""
        return self.claim.id

    @property
    def clip(self) -> Drawing:
        """Its drawing, once it has begun."""
        assert self.drawing is not None
        return self.drawing

    def note_saved(self, step: int, num_finished: int, key: str) -> None:
        """Notes the newest checkpoint, of so many finished chunks, which is stored and recorded."""
        self.saved_step = step
        self.superseded = None if self.clip.note_stored(key, num_finished) else (step, key)

    def is_checkpoint_due(self, every_steps: int) -> bool:
        """True once an unfinished clip has taken `every_steps` steps since its last checkpoint."""
        return not self.clip.is_done and self.clip.step - self.saved_step >= every_steps


@dataclass
class HeldOrders:
    """All orders that a clip worker holds, and those of them that were lost or cancelled meanwhile."""

    orders: dict[str, HeldOrder] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)

    @property
    def fences(self) -> dict[str, int]:
        """Fence of each order by its id."""
        return {order.id: order.claim.fence for order in self.orders.values()}

    @property
    def wanted(self) -> list[HeldOrder]:
        """Orders that are neither lost nor cancelled."""
        return [order for order in self.orders.values() if self.is_wanted(order)]

    def note(self, beat: LeaseStatus) -> None:
        """Marks the orders that a heartbeat reports as lost or cancelled."""
        self.lost |= beat.lost & self.orders.keys()
        self.cancelled |= beat.cancelled & self.orders.keys()

    def is_wanted(self, order: HeldOrder) -> bool:
        """False once the order was lost or cancelled."""
        return order.id not in self.lost and order.id not in self.cancelled

    def remove(self, order: HeldOrder) -> None:
        """Forgets an order."""
        self.orders.pop(order.id, None)
        self.lost.discard(order.id)
        self.cancelled.discard(order.id)
