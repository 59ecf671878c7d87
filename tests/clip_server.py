"""A clip service that tests can order from: the real routes, queue and database, and a worker that draws nothing."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.body_limit import BodyLimit
from deployments.errors import install_error_handlers
from deployments.schemas import MAX_BODY_BYTES
from deployments.videos.accounts import Accounts
from deployments.videos.aliases import Aliases
from deployments.videos.api import VideoApi
from deployments.videos.ordering import ServedModel
from deployments.videos.problems import EchoingRoute, refusal
from deployments.videos.routes import mount_videos
from deployments.videos.service import VideoService
from deployments.videos.settings import VideoApiSettings
from gamegen.database.connection import connect
from gamegen.storage.objects import LocalStore, ObjectNotFoundError
from gamegen.videos.listen import Listener
from gamegen.videos.order import Order
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import Claim, Failure, Result
from gamegen.videos.states import State
from gamegen.videos.tiers import QueueSettings

T = TypeVar("T")
PATIENCE_S = 60.0
CLIP_BYTES = 300_000
CREDITS = 12
"""Of a new account: more than all small orders of the tests, less than one large one."""
_LEASE_S = 60.0
_STAGES = (State.VAE_DECODING, State.SAFETY_CHECKING, State.TRANSCODING, State.UPLOADING)


def clip_of(order: Order) -> bytes:
    """What stands for the clip of an order: the same for the same order."""
    piece = hashlib.sha256(order.content_hash.encode()).digest()
    return (piece * (CLIP_BYTES // len(piece) + 1))[:CLIP_BYTES]


class Worker:
    """Takes orders through their states. Some prompts say what becomes of them.

    An order whose prompt has "wait" stays in GENERATING until it is `let_go` or cancelled; "fail" and "block" end so.
    """

    def __init__(self, queue: VideoQueue, objects: LocalStore, listener: Listener) -> None:
        self._queue, self._objects, self._listener = queue, objects, listener
        self.let_go = asyncio.Event()

    async def run(self) -> None:
        with self._listener.working() as watch:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._queue.encoded(await self._queue.claim_pending("w", 64, _LEASE_S))
                    claims = await self._queue.claim_batch("w", 64, _LEASE_S)
                    for claim in claims:
                        tasks.create_task(self._draw(claim))
                    if not claims:
                        await watch.changed(1.0)

    async def _draw(self, claim: Claim) -> None:
        held, prompt = {claim.id: claim.fence}, claim.order.prompt
        await self._queue.advance(held, State.GENERATING)
        for step in range(1, min(claim.num_steps, 3) + 1):
            await self._queue.progress({claim.id: (claim.fence, step, 5.0)})
        while "wait" in prompt and not self.let_go.is_set():
            if claim.id in (await self._queue.heartbeat("w", held, _LEASE_S)).cancelled:
                await self._queue.cancelled(claim.id, claim.fence)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self.let_go.wait()
        if "fail" in prompt:
            await self._queue.fail(
                claim.id, claim.fence, Failure("no_luck", "it did not work"), is_final=True
            )
            return
        for stage in _STAGES:
            await self._queue.advance(held, stage)
            if "block" in prompt and stage is State.SAFETY_CHECKING:
                await self._queue.block(claim.id, claim.fence, Failure("frames_blocked", "not to be seen"))
                return
        await self._queue.complete(claim.id, claim.fence, self._stored(claim))

    def _stored(self, claim: Claim) -> Result:
        clip = clip_of(claim.order)
        content, thumbnail = f"videos/{claim.id}/clip.mp4", f"videos/{claim.id}/thumbnail.jpg"
        self._objects.write(content, clip)
        self._objects.write(thumbnail, clip[:1000])
        digest = hashlib.sha256(clip).hexdigest()
        return Result(content, len(clip), digest, digest, thumbnail)


class Objects(LocalStore):
    """A folder that gives ranges, and addresses if there is somebody who serves it."""

    def __init__(self, folder: Path, address: str | None = None) -> None:
        super().__init__(folder)
        self.address = address

    def size(self, key: str) -> int:
        try:
            return (self.folder / key).stat().st_size
        except FileNotFoundError as error:
            raise ObjectNotFoundError(key) from error

    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if not (self.folder / key).exists():
            raise ObjectNotFoundError(key)
        data = (self.folder / key).read_bytes()[start:stop]
        return (data[at : at + 65536] for at in range(0, len(data), 65536))

    def url(
        self, key: str, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str | None:
        return f"{self.address}/{key}?expires={expires_s}" if self.address else None


@dataclass
class Message:
    """A webhook message that was sent, or is to be again."""

    id: str
    generation_id: str
    account: str
    url: str = "https://example.com/hook"
    event: str = "video.completed"
    state: str = "delivered"
    attempts: int = 1
    next_attempt_at: datetime | None = None
    status: int | None = 200
    error: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    delivered_at: datetime | None = None


class Messages:
    """Webhook messages, as the webhooks' own part gives them."""

    def __init__(self) -> None:
        self.all: list[Message] = []

    async def of(self, generation_id: str, account: str) -> list[Message]:
        return [one for one in self.all if (one.generation_id, one.account) == (generation_id, account)]

    async def redeliver(self, id: str, account: str) -> Message:
        for index, message in enumerate(self.all):
            if (message.id, message.account) == (id, account):
                self.all[index] = replace(message, state="pending")
                return self.all[index]
        raise LookupError(id)


class ClipServer:
    """The routes at a port of their own. They run in a thread, so that clients that block can be tried."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        keys: Accounts,
        queue: QueueSettings = QueueSettings(new_account_credits=CREDITS),  # noqa: B008
        **settings: Any,
    ) -> None:
        self._queue_settings = queue
        self._database_url = database_url
        self.objects = Objects(folder)
        self.messages = Messages()
        self._keys = keys
        self._settings = VideoApiSettings(**{"heartbeat_s": 0.5, **settings})
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self.app = FastAPI()
        self.service: VideoService
        self.api: VideoApi
        self.queue: VideoQueue
        self.worker: Worker

    @contextmanager
    def running(self) -> Iterator[ClipServer]:
        thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        thread.start()
        assert self._started.wait(PATIENCE_S)
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join(PATIENCE_S)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns that is run where the routes are."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        engine = connect(self._database_url)
        async with Listener(self._database_url) as listener:
            self._build(engine, listener)
            config = uvicorn.Config(
                self.app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
            )
            self._server = uvicorn.Server(config)
            working = asyncio.create_task(self.worker.run())
            self._loop.call_soon(self._started.set)
            await self._server.serve([self._socket])
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
        await engine.dispose()

    def _build(self, engine: AsyncEngine, listener: Listener) -> None:
        self.queue = VideoQueue(engine, self._queue_settings)
        self.worker = Worker(self.queue, self.objects, listener)
        self.service = VideoService(
            queue=self.queue,
            listener=listener,
            objects=self.objects,
            model=ServedModel("nano", 160, 96),
            count_steps=lambda order: -(-order.num_frames // 4) * order.num_steps,
            deliveries=self.messages,
            rotate_secret=_new_secret,
            accounts=self._keys,
            settings=self._settings,
            check_text=_check_text,
            judge=_judge,
            check_webhook_url=_check_url,
        )
        self.api = VideoApi(self.service)
        mount_videos(self.app, lambda: self.api, EchoingRoute)
        self.app.add_middleware(Aliases)
        self.app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES, refuse=refusal)
        install_error_handlers(self.app)


async def _new_secret(account: str) -> str:
    return f"whsec_{account}"


async def _check_text(order: Order) -> None:
    if "endless" in order.prompt:
        raise ValueError("400 tokens and the limit is 300: shorten it")


async def _judge(order: Order) -> Failure | None:
    return Failure("prompt_blocked", "not to be asked for") if "forbidden" in order.prompt else None


def _check_url(url: str) -> None:
    if not url.startswith("https://"):
        raise ValueError("it must begin with https://")
