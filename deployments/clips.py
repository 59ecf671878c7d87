"""Clips: a bounded queue, their states, and their files."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ray import serve
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.errors import ApiError, Denied
from deployments.messages import ClipProgress
from deployments.schemas import ClipState, NewClip
from deployments.settings import GeneratorSettings

logger = logging.getLogger("ray.serve")


@dataclass
class Clip:
    """One clip and how far it is."""

    id: str
    request: NewClip
    state: Literal["queued", "running", "succeeded", "failed"] = "queued"
    progress: float = 0.0
    error: str | None = None
    file: Path | None = None

    def to_state(self) -> ClipState:
        """The clip as clients see it."""
        return ClipState(
            id=self.id,
            state=self.state,
            progress=round(self.progress, 3),
            prompt=self.request.prompt,
            num_frames=self.request.num_frames,
            seed=self.request.seed,
            error=self.error,
            file_url=f"/v1/videos/{self.id}/file" if self.file else None,
        )


class ClipTable:
    """Renders clips in the order they came, as many at once as there are generator replicas.

    It lives in this process: a restart forgets the clips.
    """

    def __init__(self, generator: DeploymentHandle, settings: GeneratorSettings) -> None:
        self._render = generator.options(stream=True).render
        self._settings = settings
        self._clips: dict[str, Clip] = {}
        self._queue: asyncio.Queue[Clip] = asyncio.Queue()
        self._workers: list[asyncio.Task[None]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="gamegen-clips-"))

    @property
    def num_queued(self) -> int:
        """Clips that wait."""
        return self._queue.qsize()

    @property
    def num_running(self) -> int:
        """Clips being rendered."""
        return sum(clip.state == "running" for clip in self._clips.values())

    def submit(self, request: NewClip) -> Clip:
        """Queues a clip; raises ApiError (503) when the queue is full."""
        if self._queue.qsize() >= self._settings.max_queued:
            message = f"{self._queue.qsize()} clips wait already: try again in a minute"
            raise ApiError(503, "queue_full", message, retry_after_s=60)
        clip = Clip(uuid.uuid4().hex, request)
        self._clips[clip.id] = clip
        self._queue.put_nowait(clip)
        if not self._workers:
            self._workers = [asyncio.create_task(self._work()) for _ in range(self._settings.replicas)]
        return clip

    def get(self, clip_id: str) -> Clip:
        """A clip; raises ApiError (404)."""
        clip = self._clips.get(clip_id)
        if clip is None:
            message = f"no video {clip_id!r}: it was removed or never was, order one with POST /v1/videos"
            raise ApiError(404, "unknown_video", message)
        return clip

    def file(self, clip_id: str) -> Path:
        """A finished clip's MP4; raises ApiError (404, or 409 while it is not finished or when it failed)."""
        clip = self.get(clip_id)
        if clip.state == "failed":
            raise ApiError(409, "video_failed", f"this video failed: {clip.error}; order it again")
        if clip.file is None:
            message = f"this video is {clip.state} ({clip.progress:.0%}): ask again when it has succeeded"
            raise ApiError(409, "video_not_ready", message, retry_after_s=2)
        return clip.file

    def close(self) -> None:
        """Stops rendering and removes the files."""
        for worker in self._workers:
            worker.cancel()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _work(self) -> None:
        while True:
            clip = await self._queue.get()
            clip.state = "running"
            try:
                await self._render_clip(clip)
                clip.state, clip.progress = "succeeded", 1.0
            # One clip that fails, for whatever reason, must not stop those behind it.
            except Exception as error:
                logger.exception("clip %s failed", clip.id)
                cause = getattr(error, "cause", error)
                clip.state, clip.error = (
                    "failed",
                    str(cause).strip().splitlines()[-1] if str(cause) else repr(cause),
                )
            self._forget_oldest()

    async def _render_clip(self, clip: Clip) -> None:
        request = clip.request
        size = request.size.size if request.size else None
        events = self._render.remote(
            request.prompt, request.perspective, request.num_frames, request.seed, size
        )
        assert isinstance(events, DeploymentResponseGenerator)
        async for event in events:
            if isinstance(event, ClipProgress):
                # The last twentieth is decoding and writing the file.
                clip.progress = 0.95 * event.done / event.total
            else:
                file = self._folder / f"{clip.id}.mp4"
                await asyncio.to_thread(file.write_bytes, event.mp4)
                clip.file = file
        if clip.file is None:
            raise RuntimeError("the generator ended without a file")

    def _forget_oldest(self) -> None:
        finished = [clip for clip in self._clips.values() if clip.state in ("succeeded", "failed")]
        for clip in finished[: -self._settings.kept_files]:
            if clip.file:
                clip.file.unlink(missing_ok=True)
            del self._clips[clip.id]


@serve.deployment(name="Clips")
class ClipsDeployment:
    """The one table that all ingress replicas ask; what it refuses it returns, see `Denied`."""

    def __init__(self, generator: DeploymentHandle, settings: GeneratorSettings) -> None:
        self._table = ClipTable(generator, settings)

    def __del__(self) -> None:
        """Serve calls this when the replica ends."""
        self._table.close()

    async def submit(self, request: NewClip) -> str | Denied:
        """Queues a clip and returns its id."""
        return _or_denied(lambda: self._table.submit(request).id)

    async def get(self, clip_id: str) -> ClipState | Denied:
        """A clip's state."""
        return _or_denied(lambda: self._table.get(clip_id).to_state())

    async def file(self, clip_id: str) -> bytes | Denied:
        """A finished clip's MP4."""
        return _or_denied(lambda: self._table.file(clip_id).read_bytes())

    async def counts(self) -> dict[str, int]:
        """Clips that wait and that are rendered."""
        return {"queued": self._table.num_queued, "running": self._table.num_running}


Reply = TypeVar("Reply")


def _or_denied(work: Callable[[], Reply]) -> Reply | Denied:
    try:
        return work()
    except ApiError as error:
        return Denied.of(error)
