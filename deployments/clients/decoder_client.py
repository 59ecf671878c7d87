"""The client of the decoder replicas: latents of single chunks in, files of their frames out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.clients.retry import ReplicaUnavailableError, RetryPolicy
from deployments.replicas.messages import DecodedFrames, DecodeRequest
from gamegen.microbatch import MicroBatcher

POLICY = RetryPolicy(deadline_s=60.0, max_attempts=5, first_delay_s=0.2, max_delay_s=2.0)

OnDecoded = Callable[[float, Sequence[float]], None]
"""Takes the time at which a chunk's decoding was asked for, and those at which its files came, by `time.monotonic`."""


class DecoderUnavailableError(ReplicaUnavailableError):
    """No decoder replica has decoded the chunk by the deadline."""


class DecoderClient:
    """Decodes chunks on the decoder replicas; those of several sessions that ask at the same time share a call."""

    def __init__(
        self,
        decoder: DeploymentHandle,
        *,
        num_replicas: int,
        max_batch: int,
        policy: RetryPolicy = POLICY,
    ) -> None:
        self._decode = decoder.options(stream=True).decode
        self._calls = MicroBatcher(self._call, max_batch, calls_at_once=2 * num_replicas)
        self._policy = policy

    def start(self, request: DecodeRequest, on_decoded: OnDecoded | None = None) -> DecodeStream:
        """Begins to decode a chunk at once; `on_decoded` is called when its last file has come."""
        return DecodeStream(request, self._calls.stream, self._policy, on_decoded)

    async def _call(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
        async for parts in cast(DeploymentResponseGenerator, self._decode.remote(requests)):
            yield cast(list[DecodedFrames], parts)


class DecodeStream:
    """The files of one chunk that is being decoded; made by `DecoderClient.start`.

    Iterating yields `(file, decode_ms)` in order, each as soon as it has come: JPEG or MP4 as the request says. The
    request holds all that a decoder needs, so another one answers it when the first dies; a file is yielded once.
    Iterating raises DecoderUnavailableError. `first_came_s` is when the first file came, by `time.monotonic`.
    """

    def __init__(
        self,
        request: DecodeRequest,
        decode: Callable[[DecodeRequest], AsyncIterator[DecodedFrames]],
        policy: RetryPolicy,
        on_decoded: OnDecoded | None,
    ) -> None:
        self._request = request
        self._decode = decode
        self._policy = policy
        self._on_decoded = on_decoded
        self._files: asyncio.Queue[tuple[bytes, float] | None] = asyncio.Queue()
        self._came_s: list[float] = []
        self._task = asyncio.create_task(self._fetch())
        self._task.add_done_callback(lambda _: self._files.put_nowait(None))

    async def __aiter__(self) -> AsyncIterator[tuple[bytes, float]]:
        """The files."""
        while (file := await self._files.get()) is not None:
            yield file
        await self._task

    @property
    def num_files(self) -> int:
        """Number of files that there will be."""
        return self._request.num_files

    @property
    def first_came_s(self) -> float | None:
        """When the first file came, by `time.monotonic`; None before."""
        return self._came_s[0] if self._came_s else None

    def cancel(self) -> None:
        """Stops decoding."""
        self._task.cancel()

    async def _fetch(self) -> None:
        asked_s = time.monotonic()
        try:
            await self._policy.run(self._attempt)
        except ReplicaUnavailableError as error:
            raise DecoderUnavailableError(
                "no decoder has decoded the chunk: retry in a few seconds"
            ) from error
        if self._on_decoded:
            self._on_decoded(asked_s, self._came_s)

    async def _attempt(self) -> None:
        """Decodes the chunk from its beginning; files that an earlier attempt brought are left out."""
        number = 0
        async for part in self._decode(self._request):
            for file in part.files:
                number += 1
                if number > len(self._came_s):
                    self._came_s.append(time.monotonic())
                    self._files.put_nowait((file, part.decode_ms))
        if number < self._request.num_files:
            raise RuntimeError(f"the decoder ended after {number} of {self._request.num_files} files")
