"""From latents to files: decoded, judged, written, signed, stored."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from deployments.videos import metrics
from gamegen.clips.drawing import Drawing
from gamegen.clips.files import ClipFacts, ClipWriter
from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.provenance.certificates import Signer
from gamegen.provenance.manifest import Manifest, sign_mp4
from gamegen.safety.checks import SafetyChecks, refusal
from gamegen.storage.objects import ObjectStore
from gamegen.videos.order import Order
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import Claim, Failure, Result
from gamegen.videos.states import State

_PIECE_FRAMES = 16


class Decodes(Protocol):
    """Where latents become frames."""

    def frames(self, drawing: Drawing) -> AsyncIterator[np.ndarray]:
        """The frames of a finished clip in their order, uint8 `(4, H, W, 3)` for each chunk."""


class NotOursError(Exception):
    """The order went to somebody else, or was cancelled, in the middle."""


@dataclass(frozen=True)
class Finishing:
    """All that comes after the last denoising step."""

    queue: VideoQueue
    store: ObjectStore
    decoder: Decodes
    checks: SafetyChecks
    signer: Signer

    async def finish(
        self, claim: Claim, drawing: Drawing, stages: metrics.StageClock, is_wanted: Callable[[], bool]
    ) -> None:
        """Ends an order with its files, or blocked; nothing is stored for one that is not wanted any more."""
        with tempfile.TemporaryDirectory(prefix="gamegen-clip-") as folder:
            try:
                await self._finish(claim, drawing, stages, is_wanted, Path(folder))
            except NotOursError:
                return

    async def _finish(
        self,
        claim: Claim,
        drawing: Drawing,
        stages: metrics.StageClock,
        is_wanted: Callable[[], bool],
        folder: Path,
    ) -> None:
        async def enter(state: State) -> None:
            if not is_wanted() or not await self.queue.advance({claim.id: claim.fence}, state):
                raise NotOursError
            stages.enter(state)

        await enter(State.VAE_DECODING)
        frames = await self._decoded(drawing, folder / "frames")
        await enter(State.SAFETY_CHECKING)
        verdicts = await asyncio.to_thread(self.checks.check_frames, "frames", frames)
        await self.queue.audit(claim.id, verdicts)
        if refused := refusal(verdicts):
            message = refused.reason or f"its frames may not be shown ({refused.checker})"
            if await self.queue.block(claim.id, claim.fence, Failure("frames_refused", message)):
                metrics.record_end(claim, State.BLOCKED)
            return
        await enter(State.TRANSCODING)
        file, facts = await asyncio.to_thread(self._written, claim.order, frames, folder)
        await enter(State.UPLOADING)
        result = await asyncio.to_thread(self._stored, claim, file, facts)
        stages.enter(None)
        if await self.queue.complete(claim.id, claim.fence, result):
            metrics.record_end(claim, State.COMPLETED)

    async def _decoded(self, drawing: Drawing, file: Path) -> np.ndarray:
        """Kept in a file, since those of a large clip would fill the memory."""
        order = drawing.order
        shape = drawing.plan.num_chunks * FRAMES_PER_CHUNK, order.height, order.width, 3
        frames = np.memmap(file, np.uint8, "w+", shape=shape)
        at = 0
        async for piece in self.decoder.frames(drawing):
            frames[at : at + len(piece)] = piece
            at += len(piece)
        if at != len(frames):
            raise RuntimeError(f"{at} of {len(frames)} frames were decoded")
        return frames[: order.num_frames]

    def _written(self, order: Order, frames: np.ndarray, folder: Path) -> tuple[Path, ClipFacts]:
        plain, signed = folder / "plain.mp4", folder / "clip.mp4"
        with ClipWriter(plain, (order.width, order.height), order.num_frames, order.fps) as writer:
            for start in range(0, len(frames), _PIECE_FRAMES):
                writer.add(np.asarray(frames[start : start + _PIECE_FRAMES]))
        manifest = Manifest(order.model[:200], order.content_hash, datetime.now(UTC))
        sign_mp4(plain, signed, manifest, self.signer)
        return signed, writer.facts

    def _stored(self, claim: Claim, file: Path, facts: ClipFacts) -> Result:
        """Under a key of this claim's own: whoever lost the order overwrites nothing."""
        folder = f"videos/{claim.id}/{claim.fence}"
        clip, thumbnail = f"{folder}/clip.mp4", f"{folder}/thumbnail.jpg"
        self.store.upload(clip, file, content_type="video/mp4")
        self.store.write(thumbnail, facts.thumbnail, content_type="image/jpeg")
        return Result(clip, file.stat().st_size, _sha256(file), facts.frames_sha256, thumbnail)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
