"""What the clip service's routes work with; whoever mounts them puts the parts together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from deployments.videos.accounts import Accounts
from deployments.videos.ordering import ServedModel
from deployments.videos.settings import VideoApiSettings
from gamegen.videos.listen import Listener
from gamegen.videos.order import Order
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import Failure


class Objects(Protocol):
    """The files; see `gamegen.storage`. Its methods block."""

    def write(self, key: str, data: bytes) -> None:
        """Stores a few bytes."""

    def size(self, key: str) -> int:
        """Bytes of an object; raises ObjectNotFoundError."""

    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Its bytes from `start` to `stop`, in pieces."""

    def url(
        self, key: str, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str | None:
        """An address of it for a while, if the store has addresses."""


class Delivery(Protocol):
    """A webhook message and what became of it; see `gamegen.webhooks`."""

    @property
    def id(self) -> str: ...
    @property
    def generation_id(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def event(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def next_attempt_at(self) -> datetime | None: ...
    @property
    def status(self) -> int | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def delivered_at(self) -> datetime | None: ...


class Deliveries(Protocol):
    """Messages to those who ordered."""

    async def of(self, generation_id: str, account: str) -> Sequence[Delivery]:
        """Those about an order."""

    async def redeliver(self, id: str, account: str) -> Delivery:
        """Has a message sent again; raises LookupError."""


async def _fits(_order: Order) -> None:
    return None


async def _all_allowed(_order: Order) -> Failure | None:
    return None


def _any_address(_url: str) -> None:
    return None


@dataclass(frozen=True)
class VideoService:
    """The parts. Checks raise ValueError with a sentence for the client.

    `count_steps` counts an order's denoising steps, over all chunks. `rotate_secret` gives an account a new secret for
    its webhooks. `check_text` refuses prompts that the model cannot take; `judge` says why the words may not be used,
    for an answer at once.
    """

    queue: VideoQueue
    listener: Listener
    objects: Objects
    model: ServedModel
    count_steps: Callable[[Order], int]
    deliveries: Deliveries
    rotate_secret: Callable[[str], Awaitable[str]]
    accounts: Accounts = field(default_factory=Accounts)
    settings: VideoApiSettings = field(default_factory=VideoApiSettings)
    check_text: Callable[[Order], Awaitable[None]] = _fits
    judge: Callable[[Order], Awaitable[Failure | None]] = _all_allowed
    check_webhook_url: Callable[[str], object] = _any_address
