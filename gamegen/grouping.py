"""Requests to another replica, or to the database, that travel together.

A call between replicas costs milliseconds of processor on both sides, whatever it carries; a player asks for a step and
a decoding six times a second. So whoever asks while calls are under way shares the next one. A lone player waits for
nobody, a crowd makes few calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Request = TypeVar("Request")
Part = TypeVar("Part")


@dataclass
class _Asked(Generic[Request, Part]):
    request: Request
    parts: asyncio.Queue[Part | BaseException | None] = field(default_factory=asyncio.Queue)
    is_given_up: bool = False


class GroupedCalls(Generic[Request, Part]):
    """Shares calls among requests, in the order in which they came.

    `call` answers a list of requests by yielding lists as long: the next part of each one's answer. At most
    `calls_at_once` are under way: two keep the other side busy while one's answer travels. Each carries at most
    `most` requests.
    """

    def __init__(
        self,
        call: Callable[[list[Request]], AsyncIterator[list[Part]]],
        most: int,
        calls_at_once: int = 2,
    ) -> None:
        self._call = call
        self._most = most
        self._calls_at_once = calls_at_once
        self._waiting: deque[_Asked[Request, Part]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._is_starting = False

    async def parts(self, request: Request) -> AsyncIterator[Part]:
        """The answer's parts as they come; raises what the call raised, which others may have shared."""
        asked: _Asked[Request, Part] = _Asked(request)
        self._waiting.append(asked)
        self._start()
        try:
            while (part := await asked.parts.get()) is not None:
                if isinstance(part, BaseException):
                    raise part
                yield part
        finally:
            asked.is_given_up = True

    async def answer(self, request: Request) -> Part:
        """The only part of an answer that has one."""
        async for part in self.parts(request):
            return part
        raise RuntimeError("a call ended without an answer")

    def _start(self) -> None:
        """Calls once everybody who was woken together with this one has asked as well."""
        if not self._is_starting and len(self._calls) < self._calls_at_once:
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start_calls)

    def _start_calls(self) -> None:
        self._is_starting = False
        while len(self._calls) < self._calls_at_once and (group := self._take_group()):
            task = asyncio.create_task(self._run(group))
            self._calls.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._start_calls()

    def _take_group(self) -> list[_Asked[Request, Part]]:
        group: list[_Asked[Request, Part]] = []
        while self._waiting and len(group) < self._most:
            asked = self._waiting.popleft()
            if not asked.is_given_up:
                group.append(asked)
        return group

    async def _run(self, group: list[_Asked[Request, Part]]) -> None:
        end: BaseException | None = None
        try:
            async for parts in self._call([asked.request for asked in group]):
                for asked, part in zip(group, parts, strict=True):
                    asked.parts.put_nowait(part)
        # Each of them decides what to do about it.
        except Exception as error:
            end = error
        except asyncio.CancelledError:
            end = RuntimeError("the call was given up")
            raise
        finally:
            for asked in group:
                asked.parts.put_nowait(end)
