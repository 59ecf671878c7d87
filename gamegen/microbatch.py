"""Micro-batching of concurrent requests into shared calls to another replica or the database.

A call between replicas costs milliseconds of processor on both sides, whatever it carries; a player asks for a step and
a decoding six times a second. Requests that come while calls are under way therefore share the next one: a lone player
never waits, a crowd makes few calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Request = TypeVar("Request")
Part = TypeVar("Part")


@dataclass
class _Pending(Generic[Request, Part]):
    request: Request
    parts: asyncio.Queue[Part | BaseException | None] = field(default_factory=asyncio.Queue)
    is_cancelled: bool = False
    call: _Call[Request, Part] | None = None


@dataclass
class _Call(Generic[Request, Part]):
    batch: list[_Pending[Request, Part]]
    task: asyncio.Task[None] | None = None

    def stop_if_unwanted(self) -> None:
        """Cancels the call once nobody waits for its answer, so that one that hangs makes room for others."""
        if self.task is not None and all(pending.is_cancelled for pending in self.batch):
            self.task.cancel()


class MicroBatcher(Generic[Request, Part]):
    """Batches requests into calls, in the order in which they came.

    `call` answers a list of requests by yielding lists as long: the next part of each request's answer. At most
    `calls_at_once` run concurrently (two keep the other side busy while one answer travels), each with at most
    `max_batch` requests.
    """

    def __init__(
        self,
        call: Callable[[list[Request]], AsyncIterator[list[Part]]],
        max_batch: int,
        calls_at_once: int = 2,
    ) -> None:
        self._call = call
        self._max_batch = max_batch
        self._calls_at_once = calls_at_once
        self._waiting: deque[_Pending[Request, Part]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._is_starting = False

    async def stream(self, request: Request) -> AsyncIterator[Part]:
        """Yields the answer's parts as they come; raises the error of the call, which other requests may share."""
        pending: _Pending[Request, Part] = _Pending(request)
        self._waiting.append(pending)
        self._start()
        try:
            while (part := await pending.parts.get()) is not None:
                if isinstance(part, BaseException):
                    raise part
                yield part
        finally:
            pending.is_cancelled = True
            if pending.call is not None:
                pending.call.stop_if_unwanted()

    async def submit(self, request: Request) -> Part:
        """Returns the single part of an answer; raises RuntimeError if the call ends without one."""
        async for part in self.stream(request):
            return part
        raise RuntimeError("a call ended without an answer")

    def _start(self) -> None:
        """Starts calls in the next turn of the event loop, so that requests of this turn share one."""
        if not self._is_starting and len(self._calls) < self._calls_at_once:
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start_calls)

    def _start_calls(self) -> None:
        self._is_starting = False
        while len(self._calls) < self._calls_at_once and (batch := self._take_batch()):
            call = _Call(batch)
            # In a context of its own: what ends the request that happened to start a call must not end the call.
            call.task = asyncio.create_task(self._run(batch), context=Context())
            for pending in batch:
                pending.call = call
            self._calls.add(call.task)
            call.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._start_calls()

    def _take_batch(self) -> list[_Pending[Request, Part]]:
        batch: list[_Pending[Request, Part]] = []
        while self._waiting and len(batch) < self._max_batch:
            pending = self._waiting.popleft()
            if not pending.is_cancelled:
                batch.append(pending)
        return batch

    async def _run(self, batch: list[_Pending[Request, Part]]) -> None:
        end: BaseException | None = None
        try:
            async for parts in self._call([pending.request for pending in batch]):
                for pending, part in zip(batch, parts, strict=True):
                    pending.parts.put_nowait(part)
        # Raised again in each request.
        except Exception as error:
            end = error
        except asyncio.CancelledError:
            end = RuntimeError("the call was cancelled")
            raise
        finally:
            for pending in batch:
                pending.parts.put_nowait(end)
