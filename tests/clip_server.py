"""A clip service for tests: the real routes, service, queue and database, with a worker that renders nothing."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import uvicorn
from fastapi import FastAPI
from ray.exceptions import ActorDiedError

from deployments.clients.retry import RetryPolicy
from deployments.clients.text_encoder_client import TextEncoderClient
from deployments.errors import install_error_handlers
from deployments.ingress.base_path import BasePathMiddleware
from deployments.ingress.request_id import RequestIdMiddleware
from deployments.ingress.request_rules import install_request_rules
from deployments.prompts import PromptEncoder
from deployments.replicas.messages import EncodedText, Rejected
from deployments.stores import StoreUrls
from deployments.videos.orders import ServedModel
from deployments.videos.routes import router
from deployments.videos.service import VideoService
from deployments.videos.settings import VideoApiSettings, VideoSettings
from deployments.videos.startup import VideoStartup, open_video_service
from gamegen.models.sampling import SamplingConfig
from gamegen.service.database.connection import connect
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.order import Order
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import Claim, Failure, Result
from gamegen.service.orders.states import State
from gamegen.service.orders.tiers import QueueSettings
from gamegen.service.safety.settings import SafetySettings
from gamegen.service.webhooks.deliveries import Deliveries
from gamegen.storage.objects import LocalStore

T = TypeVar("T")
PATIENCE_S = 60.0
CLIP_BYTES = 300_000
CREDITS = 3
"""Credits of a new account: enough for all small orders of the tests, too few for a large one."""
QUICK_RETRIES = RetryPolicy(deadline_s=PATIENCE_S, max_attempts=3, first_delay_s=0.01)
_LEASE_S = 60.0
_STAGES = (State.VAE_DECODING, State.SAFETY_CHECKING, State.TRANSCODING, State.UPLOADING)


def clip_of(order: Order) -> bytes:
    """Bytes in place of an order's clip, equal for equal orders."""
    piece = hashlib.sha256(order.content_hash.encode()).digest()
    return (piece * (CLIP_BYTES // len(piece) + 1))[:CLIP_BYTES]


class Worker:
    """Takes orders through their states; words in a prompt decide how an order ends.

    An order whose prompt has "wait" stays in GENERATING until it is `let_go` or cancelled; "fail" and "block" end so.
    """

    def __init__(self, queue: VideoQueue, objects: LocalStore, listener: Listener) -> None:
        self._queue = queue
        self._objects = objects
        self._listener = listener
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
        return Result(
            content_key=content,
            content_bytes=len(clip),
            content_sha256=digest,
            frames_sha256=digest,
            thumbnail_key=thumbnail,
        )


class TextEncoderHandle:
    """A text encoder handle whose replica encodes texts, rejects those with "endless" in them, or is dead."""

    def __init__(self) -> None:
        self.is_dead = False
        self.encode = self

    async def remote(self, text: str, _perspective: str | None) -> EncodedText | Rejected:
        if self.is_dead:
            raise ActorDiedError()
        if "endless" in text:
            return Rejected("400 tokens and the limit is 300: shorten it")
        return EncodedText(np.zeros((1, 4), np.float32), np.zeros(4, np.float32))


class ClipServer:
    """Serves the clip service's routes at a port, in a thread, so that tests can use blocking clients."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        queue: QueueSettings = QueueSettings(new_account_credits=CREDITS),  # noqa: B008
        max_pixels: int = VideoSettings.max_pixels,
        max_work: float = VideoSettings.max_work,
        **settings: Any,
    ) -> None:
        self.objects = LocalStore(folder)
        self.text_encoder = TextEncoderHandle()
        self._stores = StoreUrls(sessions="", database=database_url, objects=str(folder))
        blocklist = folder / "blocklist.yaml"
        blocklist.write_text("rules: [{reason: not to be asked for, entries: [forbidden]}]")
        self._settings = VideoSettings(
            max_pixels=max_pixels,
            max_work=max_work,
            queue=queue,
            api=VideoApiSettings(**{"heartbeat_s": 0.5, **settings}),
            safety=SafetySettings(blocklist_file=str(blocklist)),
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self.service: VideoService
        self.queue: VideoQueue
        self.deliveries: Deliveries
        self.listener: Listener
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
        """The result of a coroutine that runs in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        engine = connect(self._stores.database)
        self.queue = VideoQueue(engine, self._settings.queue)
        self.deliveries = Deliveries(engine, self._settings.webhooks.retries)
        startup = VideoStartup(self._open_service, timeout_s=PATIENCE_S)
        startup.begin()
        async with Listener(self._stores.database) as self.listener:
            self.worker = Worker(self.queue, self.objects, self.listener)
            config = uvicorn.Config(
                application(startup), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
            )
            self._server = uvicorn.Server(config)
            working = asyncio.create_task(self.worker.run())
            await self._server.serve([self._socket])
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
        await startup.close()
        await engine.dispose()

    async def _open_service(self, resources: AsyncExitStack) -> VideoService:
        self.service = await open_video_service(
            resources,
            settings=self._settings,
            stores=self._stores,
            prompt_encoder=PromptEncoder(TextEncoderClient(self.text_encoder, QUICK_RETRIES)),
            served_model=_served_model,
        )
        self._loop.call_soon(self._started.set)
        return self.service


def application(startup: VideoStartup, allowed_origins: Sequence[str] = ()) -> FastAPI:
    """An application with the clip service's routes alone."""
    app = FastAPI()
    app.state.videos = startup
    app.include_router(router)
    install_request_rules(app, allowed_origins)
    app.add_middleware(RequestIdMiddleware)
    app.add_middleware(BasePathMiddleware)
    install_error_handlers(app)
    return app


async def _served_model() -> ServedModel:
    return ServedModel(name="nano", width=160, height=96, sampling=SamplingConfig())
