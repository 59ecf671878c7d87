"""Records that go into the queue and come out of it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from gamegen.service.orders.order import Order, Tier
from gamegen.service.orders.states import State

# PostgreSQL stores neither NUL nor surrogates.
_STORABLE = re.compile("[^\0\ud800-\udfff]*")


@dataclass(frozen=True, kw_only=True)
class NewGeneration:
    """An order to submit; `id` is new, `request_id` the caller's name for the request, if any.

    `num_steps` are the denoising steps of all chunks, `millicredits` the price to reserve. Raises ValueError for values
    that the database would refuse, since they would fail all orders of the same transaction.
    """

    id: str
    account: str
    order: Order
    body_hash: str
    num_steps: int
    millicredits: int
    request_id: str | None = None
    tier: Tier = Tier.STANDARD
    priority: int = 5
    webhook_url: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= 9:
            raise ValueError(f"priority = {self.priority}: must be 0 to 9")
        if self.num_steps < 1 or self.millicredits < 0:
            raise ValueError(
                f"num_steps = {self.num_steps}, millicredits = {self.millicredits}: must be at least 1 and 0"
            )
        texts = (self.account, self.request_id, self.webhook_url, *asdict(self.order).values())
        for value in texts:
            if isinstance(value, str) and not _STORABLE.fullmatch(value):
                raise ValueError(f"{value!r} contains NUL or surrogate characters: remove them")


@dataclass(frozen=True)
class OrderRefusal:
    """Reason for which an order is not accepted.

    `code` is request_reused (another order has its request_id), insufficient_credits, account_full or queue_full.
    """

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An order that a worker holds until its lease expires; the next claim of it has a higher fence.

    `checkpoint_key` is the object of the newest checkpoint, which has `checkpoint_step` steps.
    """

    id: str
    account: str
    fence: int
    attempts: int
    order: Order
    num_steps: int
    tier: Tier
    created_at: datetime
    checkpoint_key: str | None = None
    checkpoint_step: int = 0


@dataclass(frozen=True)
class LeaseStatus:
    """Ids of orders that a worker no longer holds (`lost`), and of those that it must stop (`cancelled`)."""

    lost: frozenset[str]
    cancelled: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Files of a finished clip; `frames_sha256` is the hash of its raw frames, before encoding."""

    content_key: str
    content_bytes: int
    content_sha256: str
    frames_sha256: str
    thumbnail_key: str


@dataclass(frozen=True)
class Completion:
    """Completion of an order, held by a fence, with its files."""

    id: str
    fence: int
    result: Result


@dataclass(frozen=True)
class Failure:
    """Reason for which an order failed or is blocked: a stable code and a readable sentence."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Generation:
    """An order with its current state."""

    id: str
    account: str
    state: State
    tier: Tier
    priority: int
    order: Order
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    fence: int
    step: int
    num_steps: int
    step_ms: float | None
    cancel_requested: bool
    is_kept: bool
    expired_at: datetime | None
    webhook_url: str | None
    request_id: str | None
    failure: Failure | None
    result: Result | None
    # Reserved price; final price once the order has ended.
    millicredits: int = 0

    @property
    def progress(self) -> float:
        """Share of the work that is done, 0 to 1; the last twentieth is for decoding, checking and encoding."""
        if self.state is State.COMPLETED:
            return 1.0
        return 0.95 * self.step / self.num_steps

    @property
    def remaining_s(self) -> float | None:
        """Seconds of denoising that remain; None until a step has been timed."""
        if self.step_ms is None or self.state is not State.GENERATING:
            return None
        return (self.num_steps - self.step) * self.step_ms / 1000


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of an order; ids increase, so a reader continues after the last one it has read."""

    id: int
    generation_id: str
    kind: str
    state: State
    fence: int
    created_at: datetime
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TierStats:
    """Numbers of unfinished orders of a tier: `pending` encoding, `queued` for a generator, `leased` by a worker.

    `oldest_s` is the age in seconds of the oldest order that is queued for a generator, 0 if there is none.
    """

    pending: int = 0
    queued: int = 0
    leased: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True)
class QueueStats:
    """Numbers of unfinished orders, by tier."""

    tiers: dict[Tier, TierStats]

    @property
    def pending(self) -> int:
        """Orders whose texts are not encoded yet."""
        return sum(tier.pending for tier in self.tiers.values())

    @property
    def queued(self) -> int:
        """Orders that wait for a generator."""
        return sum(tier.queued for tier in self.tiers.values())

    @property
    def leased(self) -> int:
        """Orders that workers hold."""
        return sum(tier.leased for tier in self.tiers.values())

    @property
    def oldest_s(self) -> float:
        """Age in seconds of the oldest order that waits for a generator."""
        return max((tier.oldest_s for tier in self.tiers.values()), default=0.0)


class UnknownGenerationError(KeyError):
    """The account has no order of this id."""

    def __init__(self, generation_id: str) -> None:
        super().__init__(generation_id)
        self.generation_id = generation_id

    def __str__(self) -> str:
        return f"there is no video {self.generation_id!r}"


class AlreadyEndedError(RuntimeError):
    """The order has ended and can no longer change."""

    def __init__(self, generation_id: str, state: State) -> None:
        super().__init__(f"video {generation_id!r} has ended already: it is {state}")
        self.state = state
