"""What the clip service's routes work with; whoever mounts them puts the parts together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from deployments.videos.accounts import Accounts
from deployments.videos.ordering import ServedModel
from gamegen.videos.listen import Listener
from gamegen.videos.order import Order
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import Failure


@dataclass(frozen=True)
class VideoApiSettings:
    """What one ingress process allows its clients.

    An account may place `max_orders_per_s`. Orders that come together are written down together, `orders_at_once` of
    them at most. At most `max_streams` watch a video
    at a time; each is sent something every `heartbeat_s`, and looks by itself as often, should the database's word be
    lost. Files stay for `kept_days`. With `redirects_content` clients are sent to the object store for them, by an
    address that is good for `url_s`, where it has such addresses.
    """

    max_orders_per_s: int = 500
    orders_at_once: int = 64
    max_streams: int = 1000
    heartbeat_s: float = 5.0
    kept_days: int = 30
    redirects_content: bool = False
    url_s: int = 3600

    def __post_init__(self) -> None:
        for name in ("max_orders_per_s", "orders_at_once", "max_streams", "kept_days", "url_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"VideoApiSettings.{name} = {getattr(self, name)}: must be at least 1")
        if not 0 < self.heartbeat_s <= 30:
            raise ValueError(f"VideoApiSettings.heartbeat_s = {self.heartbeat_s:g}: use up to 30 seconds")


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
