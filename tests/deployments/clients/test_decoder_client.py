"""The decoder client: each file of a chunk comes once though decoders die, and chunks share calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from deployments.clients.decoder_client import DecoderClient, DecoderUnavailableError
from deployments.clients.retry import RetryPolicy
from deployments.replicas.messages import DecodedFrames, DecodeRequest

POLICY = RetryPolicy(deadline_s=60, max_attempts=4, first_delay_s=0)


class Decoders:
    """A deployment that decodes a latent's value to four files; the first `deaths` calls fail after the first file."""

    def __init__(self, deaths: int = 0, files_at_death: int = 1) -> None:
        self.batches: list[int] = []
        self._deaths = deaths
        self._files_at_death = files_at_death

    def options(self, **_: Any) -> Decoders:
        return self

    @property
    def decode(self) -> Decoders:
        return self

    async def remote(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
        self.batches.append(len(requests))
        for number in range(4):
            if number == self._files_at_death and len(self.batches) <= self._deaths:
                raise RuntimeError("the replica died")
            yield [DecodedFrames([bytes([int(one.latent[0]), number])], 1.0) for one in requests]


def request(value: int = 7) -> DecodeRequest:
    return DecodeRequest(latent=np.full(1, value), previous=None, size=(64, 64))


def client_of(handle: Any) -> DecoderClient:
    return DecoderClient(handle, num_replicas=1, max_batch=8, policy=POLICY)


async def test_files_come_once_each_though_decoders_die_between_them() -> None:
    decoders, decoded = Decoders(deaths=3), []
    stream = client_of(decoders).start(request(), lambda asked_s, came_s: decoded.append((asked_s, came_s)))
    assert stream.num_files == 4 and stream.first_came_s is None
    assert [file async for file, _ in stream] == [bytes([7, number]) for number in range(4)]
    assert len(decoders.batches) == 4
    ((asked_s, came_s),) = decoded
    assert len(came_s) == 4 and asked_s <= stream.first_came_s == came_s[0] and came_s == sorted(came_s)


async def test_a_chunk_that_no_decoder_decodes_raises_after_the_files_that_came() -> None:
    stream, files = client_of(Decoders(deaths=100)).start(request()), []
    with pytest.raises(DecoderUnavailableError, match="retry in a few seconds"):
        async for file, _ in stream:
            files.append(file)
    assert files == [bytes([7, 0])]


async def test_a_decoder_that_ends_early_is_asked_again() -> None:
    class Ending(Decoders):
        async def remote(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
            is_first = not self.batches
            async for parts in super().remote(requests):
                yield parts
                if is_first:
                    return

    assert len([file async for file in client_of(Ending()).start(request())]) == 4


async def test_chunks_of_several_sessions_share_a_call() -> None:
    decoders = Decoders()
    client = client_of(decoders)
    streams = [client.start(request(value)) for value in range(5)]
    for value, stream in enumerate(streams):
        assert [file[0] async for file, _ in stream] == [value] * 4
    assert decoders.batches == [5]
