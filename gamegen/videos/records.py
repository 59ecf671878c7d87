"""What goes into the queue and what comes out of it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from gamegen.videos.order import Order, Tier
from gamegen.videos.states import State

# PostgreSQL keeps neither NUL nor halves of characters.
_CAN_BE_KEPT = re.compile("[^\0\ud800-\udfff]*")


@dataclass(frozen=True)
class NewGeneration:
    """An order on its way into the queue; `id` is new, `request_id` the caller's name for the request, if any.

    `num_steps` are the denoising steps of all chunks, `millicredits` what is reserved for it. Raises ValueError for
    what the database would refuse, and with it all that is submitted together.
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
            if isinstance(value, str) and not _CAN_BE_KEPT.fullmatch(value):
                raise ValueError(f"{value!r} has characters that no text can have: take them out")


@dataclass(frozen=True)
class Refusal:
    """Why an order is not taken.

    The code is request_reused (its request_id named another order), insufficient_credits, account_full or queue_full.
    """

    code: str
    message: str


@dataclass(frozen=True)
class Claim:
    """An order that a worker has until its lease ends; whoever claims it next has a higher fence.

    `checkpoint_key` is the newest checkpoint's object, good for `checkpoint_step` steps.
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
class Beat:
    """Of the orders that a worker thinks it has: those that are no longer its own, and those that it is to give up."""

    lost: frozenset[str]
    cancelled: frozenset[str]


@dataclass(frozen=True)
class Result:
    """The files of a finished clip; `frames_sha256` is of its frames before they were put into a file."""

    content_key: str
    content_bytes: int
    content_sha256: str
    frames_sha256: str
    thumbnail_key: str


@dataclass(frozen=True)
class Verdict:
    """What one safety check came to; `subject` is prompt, negative_prompt, image, source or frames."""

    subject: str
    checker: str
    score: float
    threshold: float
    is_allowed: bool
    reason: str | None = None


@dataclass(frozen=True)
class Completion:
    """An order of a worker, held by a fence, that is done."""

    id: str
    fence: int
    result: Result


@dataclass(frozen=True)
class Failure:
    """Why an order failed, or why it is blocked: a stable code and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Generation:
    """An order as it is now."""

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
    # What is reserved for it; once it has ended, what it cost.
    millicredits: int = 0

    @property
    def progress(self) -> float:
        """0 to 1; the last twentieth is decoding, checking and writing the file."""
        if self.state is State.COMPLETED:
            return 1.0
        return 0.95 * self.step / self.num_steps

    @property
    def remaining_s(self) -> float | None:
        """Seconds of denoising that are left, once one step has been timed."""
        if self.step_ms is None or self.state is not State.GENERATING:
            return None
        return (self.num_steps - self.step) * self.step_ms / 1000


@dataclass(frozen=True)
class Event:
    """Something that happened to an order; ids grow, so a reader goes on from the last it saw."""

    id: int
    generation_id: str
    kind: str
    state: State
    fence: int
    created_at: datetime
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TierStats:
    """Orders of a tier: `pending` wait for their words to be encoded, `queued` for a generator, `leased` are worked on.

    `oldest_s` is how long ago the one that has waited for a generator the longest was ordered, 0 if none waits.
    """

    pending: int = 0
    queued: int = 0
    leased: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True)
class QueueStats:
    """How full the queue is, by tier."""

    tiers: dict[Tier, TierStats]

    @property
    def pending(self) -> int:
        """Orders whose words nobody has encoded."""
        return sum(tier.pending for tier in self.tiers.values())

    @property
    def queued(self) -> int:
        """Orders that wait for a generator."""
        return sum(tier.queued for tier in self.tiers.values())

    @property
    def leased(self) -> int:
        """Orders that are worked on."""
        return sum(tier.leased for tier in self.tiers.values())

    @property
    def oldest_s(self) -> float:
        """How long ago the order that has waited longest for a generator came."""
        return max((tier.oldest_s for tier in self.tiers.values()), default=0.0)


class UnknownGenerationError(KeyError):
    """There is no such order of this account."""

    def __init__(self, generation_id: str) -> None:
        super().__init__(generation_id)
        self.generation_id = generation_id

    def __str__(self) -> str:
        return f"there is no video {self.generation_id!r}"


class AlreadyEndedError(RuntimeError):
    """The order has ended: nothing about it can change."""

    def __init__(self, generation_id: str, state: State) -> None:
        super().__init__(f"video {generation_id!r} has ended already: it is {state}")
        self.state = state
