"""A clip worker and housekeeping with the real queue, store and renderer, without Ray."""

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
from typing import Any, ClassVar

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.background import cancel_and_wait
from deployments.replicas.messages import EncodedText
from deployments.workers.clip_worker import ClipWorker
from deployments.workers.finishing import ClipFinisher
from deployments.workers.housekeeping import Housekeeping
from deployments.workers.intake import OrderIntake
from deployments.workers.settings import WorkerSettings
from gamegen.generation.decode import decode_clip
from gamegen.generation.renderer import ClipRenderer
from gamegen.models.text import TextStates
from gamegen.provenance.certificates import Signer
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.order import Order
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import Generation, NewGeneration
from gamegen.service.orders.states import FINAL
from gamegen.service.retention.retention import Retention
from gamegen.service.safety.checks import SafetyChecks
from gamegen.service.safety.settings import SafetySettings
from gamegen.service.safety.verdict import SafetyVerdict
from gamegen.service.webhooks.sender import WebhookSender
from gamegen.service.webhooks.settings import WebhookSettings
from gamegen.storage.objects import ObjectStore
from tests.engine.test_world import random_model, words

PATIENCE_S = 60.0
NOBODY = SafetySettings(prompt_checkers=("none",), frames_checkers=("none",))
_ids = itertools.count()


async def encode(text: str, perspective: str | None = None) -> EncodedText:
    """A text encoder of this process, whose states depend on the text."""
    if "endless" in text:
        raise ValueError("the text has 400 tokens and the limit is 300: shorten it")
    states = states_of(text)
    return EncodedText(states.tokens.numpy(), states.pooled.numpy())


class RefusesBright:
    """A frames checker that refuses all pictures."""

    def __init__(self, settings: SafetySettings) -> None: ...

    def check(self, subject: str, frames: np.ndarray) -> SafetyVerdict:
        return SafetyVerdict(subject, "bright", 1.0, 0.5, False, "too bright")


class RefusesTheSecondPart:
    """A frames checker that refuses the second pictures that it is shown; `shown` are their numbers."""

    shown: ClassVar[list[int]] = []

    def __init__(self, settings: SafetySettings) -> None: ...

    def check(self, subject: str, frames: np.ndarray) -> SafetyVerdict:
        self.shown.append(len(frames))
        is_allowed = len(self.shown) != 2
        return SafetyVerdict(
            subject, "second", 0.1, 0.5, is_allowed, None if is_allowed else "too late in frame 7"
        )


class SlowRenderer(ClipRenderer):
    """A renderer that waits for `open` after `free` steps; raises the error that `breaks` returns for the drawings."""

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


def states_of(text: str) -> TextStates:
    """Random states that depend on the text."""
    return words(zlib.crc32(text.encode()) % 1000)


def undisturbed(order: Order) -> np.ndarray:
    """The frames of an order without images, drawn alone."""
    renderer = ClipRenderer(random_model())
    negative = states_of(order.negative_prompt) if order.negative_prompt else None
    drawing = renderer.begin(order.clip_spec, states_of(order.prompt), negative)
    while not drawing.is_done:
        renderer.step([drawing])
    return decode_clip(renderer.model, drawing.latents)[: order.num_frames]


def digest(frames: np.ndarray) -> str:
    """SHA-256 of frames, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


@dataclass
class Workshop:
    """The parts that all workers of one database share; makes workers of them."""

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
        **settings: Any,
    ) -> ClipWorker:
        drawn_by = renderer or ClipRenderer(random_model())
        finisher = ClipFinisher(
            queue=self.queue,
            store=self.store,
            checks=SafetyChecks(safety),
            signer=self.signer,
            decoding_thread=ThreadPoolExecutor(1),
        )
        return ClipWorker(
            name=name,
            node="node",
            queue=self.queue,
            listener=self.listener,
            store=self.store,
            load_renderer=lambda: drawn_by,
            encode_text=encode,
            finisher=finisher,
            settings=WorkerSettings(**{"progress_every_s": 0.0, "lease_s": 30.0} | settings),
            drawing_thread=ThreadPoolExecutor(1),
        )

    def housekeeping(self, safety: SafetySettings = NOBODY, lease_s: float = 30.0) -> Housekeeping:
        intake = OrderIntake(
            name="clerk",
            queue=self.queue,
            listener=self.listener,
            store=self.store,
            checks=SafetyChecks(safety),
            lease_s=lease_s,
        )
        return Housekeeping(
            intake=intake,
            queue=self.queue,
            retention=Retention(self.engine, self.store),
            sender=WebhookSender(self.engine, WebhookSettings()),
        )

    async def placed(self, *orders: Order) -> list[str]:
        """Ids of new orders that wait for intake."""
        made = await self.queue.submit(
            [
                NewGeneration(
                    id=f"video_{next(_ids)}",
                    account="ann",
                    order=order,
                    body_hash="b",
                    num_steps=_num_steps(order),
                    millicredits=100,
                )
                for order in orders
            ]
        )
        return [one.id for one in made if isinstance(one, Generation)]

    async def queued(self, *orders: Order) -> list[str]:
        """Ids of new orders that wait for a generator."""
        ids = await self.placed(*orders)
        await self.queue.encoded(await self.queue.claim_pending("c", 100, 30))
        return ids

    async def ended(self, video: str) -> Generation:
        """An order once it has ended."""
        return await self.reached(video, lambda order: order.state in FINAL)

    async def reached(self, video: str, is_there: Callable[[Generation], bool]) -> Generation:
        """An order once `is_there` is true of it."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_there(order := await self.queue.get(video, None)):
                await asyncio.sleep(0.01)
            return order


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[asyncio.Task]:
    """Runs work in the background until the context ends."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        await cancel_and_wait(task)


def late(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A call whose answer arrives 0.3 s later."""

    async def called(*arguments: Any) -> Any:
        answer = await call(*arguments)
        await asyncio.sleep(0.3)
        return answer

    return called


def _num_steps(order: Order) -> int:
    return ClipRenderer(random_model()).plan(order.clip_spec).num_steps or 1
