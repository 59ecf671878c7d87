"""One chunk on its way through a decoder replica: its files as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import cast

from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.messages import DecodedFrames, DecodeRequest
from deployments.pacing import ChunkClock
from gamegen.grouping import GroupedCalls

_ATTEMPTS = 5
_FIRST_DELAY_S = 0.2


class Decodings:
    """The way from an ingress to the decoder replicas: chunks that were drawn together are decoded together."""

    def __init__(self, decoder: DeploymentHandle, num_replicas: int, most: int) -> None:
        self._decode = decoder.options(stream=True).decode
        self._calls = GroupedCalls(self._call, most, calls_at_once=2 * num_replicas)

    def frames(self, request: DecodeRequest) -> AsyncIterator[DecodedFrames]:
        """A chunk's frames in parts; raises whatever a dying replica raises."""
        return self._calls.parts(request)

    async def _call(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
        async for parts in cast(DeploymentResponseGenerator, self._decode.remote(requests)):
            yield cast(list[DecodedFrames], parts)


class ChunkDecoding:
    """Begins at once; iterating yields `(file, decode_ms)` in order, as soon as there is one: JPEG or MP4 as asked for.

    A request holds all that it needs, so that any other decoder can answer it if one dies; files that had come
    already are not given twice. Iterating raises what the last attempt raised. The clock is told how long the chunk
    took since `begun_s`, unless it is not typical. `first_came_s` is when the first file
    came, by `time.monotonic`.
    """

    def __init__(
        self,
        decodings: Decodings,
        request: DecodeRequest,
        clock: ChunkClock,
        begun_s: float,
        is_typical: bool = True,
    ) -> None:
        self._decodings = decodings
        self._request = request
        self._clock = clock
        self._begun_s, self._is_typical = begun_s, is_typical
        self._files: asyncio.Queue[tuple[bytes, float] | None] = asyncio.Queue()
        self.first_came_s: float | None = None
        self._task = asyncio.create_task(self._fetch())
        self._task.add_done_callback(lambda _: self._files.put_nowait(None))

    async def __aiter__(self) -> AsyncIterator[tuple[bytes, float]]:
        """The files."""
        while (file := await self._files.get()) is not None:
            yield file
        await self._task

    @property
    def num_files(self) -> int:
        """How many there will be."""
        return self._request.num_files

    def cancel(self) -> None:
        """Gives it up."""
        self._task.cancel()

    async def _fetch(self) -> None:
        came_s: list[float] = []
        start = time.monotonic()
        for attempt in range(_ATTEMPTS):
            try:
                await self._attempt(came_s)
                break
            # Whatever a dying replica raises, the answer is the same.
            except Exception:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_FIRST_DELAY_S * 2**attempt)
        self._clock.decoded(self._begun_s, start, came_s, self._is_typical)

    async def _attempt(self, came_s: list[float]) -> None:
        number = 0
        async for part in self._decodings.frames(self._request):
            for file in part.files:
                number += 1
                if number > len(came_s):
                    self.first_came_s = self.first_came_s or time.monotonic()
                    came_s.append(time.monotonic())
                    self._files.put_nowait((file, part.decode_ms))
        if number < self._request.num_files:
            raise RuntimeError(f"a decoder ended after {number} of {self._request.num_files} files")
