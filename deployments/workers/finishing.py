"""The stages of an order after its last denoising step: decode, check, encode, sign, store."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from deployments.observability import video_metrics
from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.files import file_sha256
from gamegen.generation.clip_files import ClipFacts, ClipWriter
from gamegen.generation.drawing import Drawing
from gamegen.media.frame_file import FrameFile
from gamegen.media.motion_interpolation import INTERPOLATOR
from gamegen.provenance.certificates import Signer
from gamegen.provenance.manifest import ClipManifest, FrameChange, sign_mp4
from gamegen.service.orders.order import Order
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import Claim, Failure, Result
from gamegen.service.orders.states import State
from gamegen.service.safety.checks import SafetyChecks, refusal
from gamegen.service.safety.verdict import SafetyVerdict
from gamegen.storage.objects import ObjectStore

_FRAMES_PER_WRITE = 16
_FRAMES_PER_CHECK = 120
"""Five seconds of a clip are judged at a time, so that a long one is looked at as closely as a short one."""


class OrderLostError(Exception):
    """The order was cancelled, or its lease went to another worker."""


@dataclass(frozen=True, kw_only=True)
class DrawnClip:
    """An order whose latents are all drawn.

    `decoded` yields the frames of its chunks, uint8 `(4, H, W, 3)` each; `is_wanted` is False once the order was
    cancelled or lost.
    """

    claim: Claim
    drawing: Drawing
    decoded: Iterator[np.ndarray]
    stages: video_metrics.StageClock
    is_wanted: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class ClipFinisher:
    """Makes the files of drawn clips.

    Frames never leave this process: they are decoded in `decoding_thread`, checked and encoded here.
    """

    queue: VideoQueue
    store: ObjectStore
    checks: SafetyChecks
    signer: Signer
    decoding_thread: ThreadPoolExecutor

    async def finish(self, clip: DrawnClip) -> None:
        """Ends an order with its files, or as blocked; stores nothing for an order that is no longer wanted.

        Raises StorageError, or an error of the database.
        """
        with tempfile.TemporaryDirectory(prefix="gamegen-clip-") as folder:
            try:
                await self._finish(clip, Path(folder))
            except OrderLostError:
                return

    async def _finish(self, clip: DrawnClip, folder: Path) -> None:
        claim = clip.claim
        await self._enter(State.VAE_DECODING, clip)
        frames = await self._decode(clip, folder / "frames")
        await self._enter(State.SAFETY_CHECKING, clip)
        if await self._is_blocked(claim, frames):
            return
        await self._enter(State.TRANSCODING, clip)
        file, facts = await asyncio.to_thread(self._write, claim.order, frames, folder)
        await self._enter(State.UPLOADING, clip)
        result = await asyncio.to_thread(self._store, claim, file, facts)
        clip.stages.enter(None)
        if await self.queue.complete(claim.id, claim.fence, result):
            video_metrics.record_end(claim, State.COMPLETED)

    async def _enter(self, state: State, clip: DrawnClip) -> None:
        if not clip.is_wanted() or not await self.queue.advance({clip.claim.id: clip.claim.fence}, state):
            raise OrderLostError
        clip.stages.enter(state)

    async def _decode(self, clip: DrawnClip, file: Path) -> FrameFile:
        """The clip's frames, in a file."""
        spec, loop = clip.drawing.spec, asyncio.get_running_loop()
        frames = FrameFile(file, spec.size)
        while (
            chunk := await loop.run_in_executor(self.decoding_thread, next, clip.decoded, None)
        ) is not None:
            frames.append(chunk)
            if not clip.is_wanted():
                raise OrderLostError
        if not 0 <= len(frames) - spec.num_frames < FRAMES_PER_CHUNK:
            raise RuntimeError(f"{len(frames)} frames were decoded for a clip of {spec.num_frames}")
        frames.cut(spec.num_frames)
        return frames

    async def _is_blocked(self, claim: Claim, frames: FrameFile) -> bool:
        """Runs the safety checks; an order whose frames they refuse is blocked here."""
        verdicts = await asyncio.to_thread(self._verdicts, frames)
        await self.queue.audit(claim.id, verdicts)
        refused = refusal(verdicts)
        if refused is None:
            return False
        message = refused.reason or f"its frames may not be shown ({refused.checker})"
        if await self.queue.block(claim.id, claim.fence, Failure("frames_refused", message)):
            video_metrics.record_end(claim, State.BLOCKED)
        return True

    def _verdicts(self, frames: FrameFile) -> list[SafetyVerdict]:
        """The worst verdict of each checker; no more is looked at once one has refused."""
        worst: dict[str, SafetyVerdict] = {}
        for number, part in enumerate(frames.parts(_FRAMES_PER_CHECK)):
            for verdict in self.checks.check_frames("frames", part):
                if number and verdict.reason:
                    start_s = number * _FRAMES_PER_CHECK / FPS
                    verdict = replace(verdict, reason=f"{verdict.reason}, counted from {start_s:g} s on")
                known = worst.get(verdict.checker)
                if known is None or (known.is_allowed, -known.score) > (verdict.is_allowed, -verdict.score):
                    worst[verdict.checker] = verdict
            if refusal([*worst.values()]):
                break
        return [*worst.values()]

    def _write(self, order: Order, frames: FrameFile, folder: Path) -> tuple[Path, ClipFacts]:
        plain, signed = folder / "plain.mp4", folder / "clip.mp4"
        with ClipWriter.open(plain, order.size, order.num_frames, order.fps, order.drawn) as writer:
            for part in frames.parts(_FRAMES_PER_WRITE):
                writer.add(part)
        manifest = ClipManifest(
            order.model[:200], order.content_hash, datetime.now(UTC), changes=_changes(order)
        )
        sign_mp4(plain, signed, manifest, self.signer)
        return signed, writer.facts

    def _store(self, claim: Claim, file: Path, facts: ClipFacts) -> Result:
        """Stores the files under keys of this claim, so that a worker that lost the order overwrites nothing."""
        folder = f"videos/{claim.id}/{claim.fence}"
        clip, thumbnail = f"{folder}/clip.mp4", f"{folder}/thumbnail.jpg"
        self.store.upload(clip, file, content_type="video/mp4")
        self.store.write(thumbnail, facts.thumbnail, content_type="image/jpeg")
        return Result(
            content_key=clip,
            content_bytes=file.stat().st_size,
            content_sha256=file_sha256(file),
            frames_sha256=facts.frames_sha256,
            thumbnail_key=thumbnail,
        )


def _changes(order: Order) -> tuple[FrameChange, ...]:
    """Interpolation and resizing of the drawn frames, as actions of the clip's C2PA manifest."""
    changes = []
    if order.fps != FPS:
        changes.append(
            FrameChange("c2pa.edited", f"from {FPS} to {order.fps} frames a second by {INTERPOLATOR}")
        )
    if order.size != order.drawn:
        how = f"enlarged by {order.upscaler}" if order.upscaler else "cropped or shrunk"
        changes.append(FrameChange("c2pa.resized", f"drawn at {order.drawn}, {how} to {order.size}"))
    return tuple(changes)
