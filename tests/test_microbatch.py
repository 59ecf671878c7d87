"""Calls that many share: who travels with whom, and what each of them gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from gamegen.microbatch import MicroBatcher


class Doubling:
    """Answers numbers by their double and their triple; waits in between until it may go on."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.may_end = asyncio.Event()

    async def __call__(self, numbers: list[int]) -> AsyncIterator[list[int]]:
        self.calls.append(numbers)
        if 13 in numbers:
            raise ConnectionError("the replica died")
        yield [2 * n for n in numbers]
        await self.may_end.wait()
        yield [3 * n for n in numbers]


async def all_parts(calls: MicroBatcher[int, int], number: int) -> list[int]:
    return [part async for part in calls.stream(number)]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_who_asks_while_calls_are_under_way_shares_the_next() -> None:
    doubling = Doubling()
    calls = MicroBatcher(doubling, max_batch=3, calls_at_once=2)
    asking = []
    for numbers in ([1], [2], [3, 4, 5, 6, 7]):
        asking += [asyncio.create_task(all_parts(calls, number)) for number in numbers]
        await settle()
    assert doubling.calls == [[1], [2]]
    doubling.may_end.set()
    assert await asyncio.gather(*asking) == [[2 * n, 3 * n] for n in range(1, 8)]
    assert doubling.calls == [[1], [2], [3, 4, 5], [6, 7]]


async def test_those_who_ask_at_the_same_time_share_the_first_call() -> None:
    doubling = Doubling()
    calls = MicroBatcher(doubling, max_batch=8)
    answers = asyncio.gather(*(calls.submit(number) for number in (1, 2, 3)))
    assert await answers == [2, 4, 6]
    assert doubling.calls == [[1, 2, 3]]
    doubling.may_end.set()


async def test_parts_come_before_the_call_has_ended() -> None:
    doubling = Doubling()
    parts = MicroBatcher(doubling, max_batch=8).stream(5)
    assert await anext(parts) == 10
    doubling.may_end.set()
    assert [part async for part in parts] == [15]


async def test_a_call_that_fails_fails_for_all_who_share_it_and_for_nobody_else() -> None:
    doubling = Doubling()
    doubling.may_end.set()
    calls = MicroBatcher(doubling, max_batch=2)
    numbers = (13, 1, 2, 3)
    results = await asyncio.gather(*(all_parts(calls, n) for n in numbers), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError, ConnectionError, list, list]
    with pytest.raises(ConnectionError, match="the replica died"):
        await calls.submit(13)
    assert await calls.submit(4) == 8


async def test_who_has_given_up_is_not_asked_for() -> None:
    doubling = Doubling()
    calls = MicroBatcher(doubling, max_batch=8, calls_at_once=1)
    first = asyncio.create_task(all_parts(calls, 1))
    await settle()
    leaving, staying = (asyncio.create_task(all_parts(calls, number)) for number in (2, 3))
    await settle()
    leaving.cancel()
    await settle()
    doubling.may_end.set()
    assert await first == [2, 3] and await staying == [6, 9]
    assert doubling.calls == [[1], [3]]


async def test_a_call_belongs_to_none_of_those_who_share_it() -> None:
    """A shared call runs in an empty context, not in that of the request that started it."""
    request: ContextVar[str] = ContextVar("request", default="none")
    seen = []

    async def call(numbers: list[int]) -> AsyncIterator[list[int]]:
        seen.append(request.get())
        yield numbers

    request.set("the first player's")
    assert await MicroBatcher(call, max_batch=2).submit(1) == 1
    assert seen == ["none"]


async def test_a_call_that_hangs_makes_room_once_nobody_waits_for_it() -> None:
    ended = []

    async def call(numbers: list[int]) -> AsyncIterator[list[int]]:
        try:
            if len(numbers) == 2:
                await asyncio.Event().wait()
            yield numbers
        finally:
            ended.append(numbers)

    calls = MicroBatcher(call, max_batch=2, calls_at_once=1)
    hanging = [asyncio.create_task(calls.submit(number)) for number in (1, 2)]
    await settle()
    asking = asyncio.create_task(calls.submit(3))
    hanging[0].cancel()
    await settle()
    assert ended == []
    hanging[1].cancel()
    assert await asking == 3 and ended == [[1, 2], [3]]
