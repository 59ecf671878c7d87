"""Finished chunks of a clip in a file of their own: a long clip would fill the memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

from gamegen.models.motion_compensation import Compensated


class FinishedChunks:
    """Latents `(C, h, w)` float16 in the order in which they were appended, in a temporary file without a name.

    `compensated` of a chunk, where there is one, is a second latent of that shape and its confidence `(1, h, w)`. All
    chunks are of one shape. The file is gone when the object is, or the process.
    """

    def __init__(self) -> None:
        file = tempfile.TemporaryFile(prefix="gamegen-chunks-", buffering=0)  # noqa: SIM115 - lives as long as this
        weakref.finalize(self, file.close)
        self._descriptor = file.fileno()
        self._shape: tuple[int, int, int] = (0, 0, 0)
        self._has_compensated: bool | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, latent: Tensor, compensated: Compensated | None = None) -> None:
        """Adds a chunk; raises ValueError for one of another shape, or with `compensated` where others have none."""
        shape = (latent.shape[0], latent.shape[1], latent.shape[2])
        has_compensated = compensated is not None
        if self._count and (shape, has_compensated) != (self._shape, self._has_compensated):
            raise ValueError(f"a chunk of shape {shape} after chunks of shape {self._shape}")
        self._shape, self._has_compensated = shape, has_compensated
        parts = [latent, *(compensated or ())]
        record = torch.cat([part.detach().half().cpu() for part in parts]).contiguous()
        _write(self._descriptor, record.numpy().tobytes(), self._count * record.nbytes)
        self._count += 1

    def latents(self, start: int, stop: int) -> Tensor:
        """Latents `(n, C, h, w)` of the chunks from `start` to before `stop`; `(0,)` if there are none."""
        records = [self._record(index)[: self._shape[0]] for index in range(start, stop)]
        return torch.stack(records) if records else torch.empty(0, dtype=torch.float16)

    def compensated(self, start: int, stop: int) -> list[Compensated]:
        """Motion-compensated latents of the chunks from `start` to before `stop`; empty if the chunks have none."""
        if not self._has_compensated:
            return []
        channels = self._shape[0]
        records = (self._record(index) for index in range(start, stop))
        return [Compensated(record[channels:-1], record[-1:]) for record in records]

    def each_latent(self, start: int = 0) -> Iterator[Tensor]:
        """Latents `(C, h, w)` one by one from `start` on, up to the last that there is when it is reached."""
        index = start
        while index < self._count:
            yield self._record(index)[: self._shape[0]]
            index += 1

    def _record(self, index: int) -> Tensor:
        if not 0 <= index < self._count:
            raise IndexError(f"chunk {index} of {self._count}")
        channels, height, width = self._shape
        rows = 2 * channels + 1 if self._has_compensated else channels
        num_bytes = 2 * rows * height * width
        data = bytearray(_read(self._descriptor, num_bytes, index * num_bytes))
        return torch.frombuffer(data, dtype=torch.float16).reshape(rows, height, width)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _read(descriptor: int, num_bytes: int, offset: int) -> bytes:
    data = os.pread(descriptor, num_bytes, offset)
    if len(data) != num_bytes:
        raise OSError(f"the file of chunks ends before byte {offset + num_bytes}: is the disk full?")
    return data
