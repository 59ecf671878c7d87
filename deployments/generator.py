"""Clip replicas: render a prompt to an MP4 file and say how far they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve

from deployments.messages import ClipFile, ClipProgress
from deployments.settings import GeneratorSettings


@serve.deployment(name="Generator")
class GeneratorDeployment:
    """One clip at a time; the pipeline is loaded with the first one, so that play starts sooner."""

    def __init__(self, model: str, settings: GeneratorSettings) -> None:
        os.nice(settings.niceness)
        self._model = model
        self._threads = settings.threads
        self._pipeline: Any = None
        self._thread = ThreadPoolExecutor(1, "generator")

    async def render(
        self, prompt: str, perspective: str, num_frames: int, seed: int, size: tuple[int, int] | None
    ) -> AsyncIterator[ClipProgress | ClipFile]:
        """Yields progress while the clip is drawn and ends with its file."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[ClipProgress | None] = asyncio.Queue()

        def progress(done: int, total: int) -> None:
            loop.call_soon_threadsafe(events.put_nowait, ClipProgress(done, total))

        rendering = loop.run_in_executor(
            self._thread, lambda: self._render(prompt, perspective, num_frames, seed, size, progress)
        )
        rendering.add_done_callback(lambda _: events.put_nowait(None))
        while (event := await events.get()) is not None:
            yield event
        yield ClipFile(await rendering)

    def _render(
        self,
        prompt: str,
        perspective: str,
        num_frames: int,
        seed: int,
        size: tuple[int, int] | None,
        progress: Any,
    ) -> bytes:
        import torch

        from gamegen.pipeline import VideoPipeline
        from gamegen.video import mp4_bytes

        torch.set_num_threads(self._threads)
        if self._pipeline is None:
            self._pipeline = VideoPipeline.load(self._model)
        frames = self._pipeline.generate(prompt, num_frames, seed, perspective, size, progress=progress)
        return mp4_bytes(frames)
