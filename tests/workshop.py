"""A worker and a clerk with the real queue, store and renderer, and nobody else: what replicas do is done here."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.tasks import end
from deployments.videos.clerk import Clerk
from deployments.videos.finishing import Finishing
from deployments.videos.worker import ClipWorker
from deployments.videos.working import WorkerSettings
from gamegen.clips.decode import decode_window
from gamegen.clips.drawing import Drawing
from gamegen.clips.renderer import ClipRenderer
from gamegen.models.text import TextStates
from gamegen.provenance.certificates import Signer
from gamegen.retention.retention import Retention
from gamegen.safety.checks import SafetyChecks
from gamegen.safety.settings import SafetySettings
from gamegen.storage.objects import ObjectStore
from gamegen.videos.listen import Listener
from gamegen.videos.order import Order
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import Generation, NewGeneration, Verdict
from gamegen.videos.states import FINAL
from gamegen.webhooks.sender import Sender, WebhookSettings
from tests.test_world import random_model, words

PATIENCE_S = 60.0
NOBODY = SafetySettings(prompt_checkers=("none",), frames_checkers=("none",))
_ids = itertools.count()


class Words:
    """An encoder of this process, whose states depend on the text; `calls` counts the texts."""

    def __init__(self) -> None:
        self.calls = 0

    async def texts(self, order: Order) -> tuple[TextStates, TextStates | None]:
        self.calls += 1
        if "endless" in order.prompt:
            raise ValueError("the text has 400 tokens and the limit is 300: shorten it")
        return _states(order.prompt), _states(order.negative_prompt) if order.negative_prompt else None


class Frames:
    """A decoder of this process."""

    def __init__(self, renderer: ClipRenderer) -> None:
        self._renderer = renderer

    async def frames(self, drawing: Drawing) -> AsyncIterator[np.ndarray]:
        decoded = decode_window(self._renderer.model, drawing.latents, drawing.num_before)
        for start in range(0, len(decoded), 4):
            yield decoded[start : start + 4]


class RefusesBright:
    """A frames checker that refuses all pictures."""

    def __init__(self, settings: SafetySettings) -> None: ...

    def check(self, subject: str, frames: np.ndarray) -> Verdict:
        return Verdict(subject, "bright", 1.0, 0.5, False, "too bright")


class SlowRenderer(ClipRenderer):
    """Waits for `gate` before each step after `free` of them; raises what `breaks` says about the drawings."""

    free = 10**9
    steps = 0
    breaks: Callable[[Any], BaseException | None] = staticmethod(lambda drawings: None)

    def __init__(self) -> None:
        super().__init__(random_model())
        self.open = False

    def step(self, drawings) -> float:
        while self.steps >= self.free and not self.open:
            time.sleep(0.005)
        if error := self.breaks(drawings):
            raise error
        self.steps += 1
        return super().step(drawings)


def _states(text: str) -> TextStates:
    return words(zlib.crc32(text.encode()) % 1000)


def undisturbed(order: Order) -> np.ndarray:
    """The frames of an order without images, drawn alone."""
    renderer = ClipRenderer(random_model())
    negative = _states(order.negative_prompt) if order.negative_prompt else None
    drawing = renderer.begin(order, _states(order.prompt), negative)
    while not drawing.is_done:
        renderer.step([drawing])
    return decode_window(renderer.model, drawing.latents)[: order.num_frames]


def digest(frames: np.ndarray) -> str:
    """SHA-256 of frames, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


@dataclass
class Workshop:
    """What workers of one database share."""

    engine: AsyncEngine
    queue: VideoQueue
    listener: Listener
    store: ObjectStore
    signer: Signer

    def worker(
        self,
        name: str = "g",
        renderer: ClipRenderer | None = None,
        safety: SafetySettings = NOBODY,
        encoder: Any = None,
        **settings: Any,
    ) -> ClipWorker:
        drawn_by = renderer or ClipRenderer(random_model())
        finishing = Finishing(self.queue, self.store, Frames(drawn_by), SafetyChecks(safety), self.signer)
        return ClipWorker(
            name,
            "node",
            self.queue,
            self.listener,
            self.store,
            lambda: drawn_by,
            encoder or Words(),
            finishing,
            WorkerSettings(**{"progress_every_s": 0.0, "lease_s": 30.0} | settings),
            ThreadPoolExecutor(1),
        )

    def clerk(self, safety: SafetySettings = NOBODY, encoder: Any = None, lease_s: float = 30.0) -> Clerk:
        return Clerk(
            "clerk",
            self.queue,
            self.listener,
            self.store,
            encoder or Words(),
            SafetyChecks(safety),
            Retention(self.engine, self.store),
            Sender(self.engine, WebhookSettings()),
            lease_s,
        )

    async def placed(self, *orders: Order) -> list[str]:
        """Orders that wait for a clerk; their ids."""
        made = await self.queue.submit(
            [
                NewGeneration(f"video_{next(_ids)}", "ann", order, "b", _num_steps(order), 100)
                for order in orders
            ]
        )
        return [one.id for one in made if isinstance(one, Generation)]

    async def queued(self, *orders: Order) -> list[str]:
        """Orders that wait for a generator; their ids."""
        ids = await self.placed(*orders)
        await self.queue.encoded(await self.queue.claim_pending("c", 100, 30))
        return ids

    async def ended(self, video: str) -> Generation:
        """An order once it has ended."""
        return await self.reached(video, lambda order: order.state in FINAL)

    async def reached(self, video: str, is_there: Callable[[Generation], bool]) -> Generation:
        """An order once it is so far."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_there(order := await self.queue.get(video, None)):
                await asyncio.sleep(0.01)
            return order


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[asyncio.Task]:
    """Lets it run beside, and ends it."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        await end(task)


def late(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The same call, whose answer is a while on its way."""

    async def called(*arguments: Any) -> Any:
        answer = await call(*arguments)
        await asyncio.sleep(0.3)
        return answer

    return called


def _num_steps(order: Order) -> int:
    return ClipRenderer(random_model()).plan(order).num_steps or 1
