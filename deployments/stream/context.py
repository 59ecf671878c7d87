"""Clients that an ingress replica plays its sessions with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from deployments.clients.decoder_client import DecoderClient
from deployments.clients.rebuild_limit import RebuildLimiter
from deployments.clients.world_client import WorldClient, WorldPast, WorldShards
from deployments.replicas.messages import EncodedText, Follow, InstructionUpdate, OpenRequest, StepRequest
from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.capacity_registry import PlayCapacity
from deployments.sessions.session_record import SessionRecord
from deployments.sessions.store import SessionStore
from deployments.settings import ServeSettings
from gamegen.sessions.log import VideoPrompt, unpack_controls


@dataclass(frozen=True, kw_only=True)
class ReplicaClients:
    """Clients of the replicas that draw a world, encode its prompts and decode its chunks.

    `encode_text` returns the states of a text, of a world's prompt if a perspective is given; `encode_video` returns
    the latents of a video prompt, float16 `(T, C, h, w)`. Both raise ApiError, 422 for what is refused and 503 while
    no replica answers. `rebuild_limiter` limits how many lost worlds are rebuilt at once.
    """

    worlds: WorldShards
    decoder: DecoderClient
    encode_text: Callable[[str, str | None], Awaitable[EncodedText]]
    encode_video: Callable[[VideoPrompt], Awaitable[np.ndarray]]
    rebuild_limiter: RebuildLimiter


@dataclass(frozen=True, kw_only=True)
class PlayContext:
    """Settings, session store and replica clients, shared by all sessions of an ingress replica."""

    settings: ServeSettings
    store: SessionStore
    queue: AdmissionQueue
    capacity: PlayCapacity
    replicas: ReplicaClients


async def resume_world(record: SessionRecord, context: PlayContext) -> WorldClient:
    """A client for a claimed session's world at the end of its log; raises ApiError if the encoders do not answer."""
    spec = record.spec
    prompt = await context.replicas.encode_text(spec.prompt, spec.perspective)
    return WorldClient(
        shard=context.replicas.worlds.of(record.id),
        opening=OpenRequest(
            session_id=record.id,
            fence=record.fence,
            prompt=prompt,
            seed=spec.seed,
            first_frames=spec.first_frames,
        ),
        past=WorldPast(record.snapshot, await _steps(record, context.replicas)),
        version=record.version + record.first_chunks,
        snapshot_every_chunks=context.settings.world.snapshot_every_chunks,
        recovery_timeout_s=context.settings.ingress.recovery_timeout_s,
        rebuild_limiter=context.replicas.rebuild_limiter,
    )


async def _steps(record: SessionRecord, replicas: ReplicaClients) -> list[StepRequest]:
    """The steps since the snapshot, which rebuild the world from it."""
    said = {words.chunk: words for words in record.spoken if words.chunk >= record.snapshot_version}
    followed = {it.chunk: it.video_prompt for it in record.followed if it.chunk >= record.snapshot_version}
    steps = []
    for chunk, control in enumerate(unpack_controls(record.controls)):
        if chunk < record.snapshot_version:
            continue
        instruction = follow = None
        if chunk in said:
            words = await replicas.encode_text(said[chunk].text, None) if said[chunk].text else None
            instruction = InstructionUpdate(words, said[chunk].blend_chunks)
        if chunk in followed:
            name = followed[chunk]
            latents = await replicas.encode_video(record.video_prompts[name]) if name else None
            follow = Follow(latents)
        steps.append(
            StepRequest(
                session_id=record.id,
                fence=record.fence,
                # The world counts the first frames that it continues too, which nobody played.
                version=chunk + record.first_chunks,
                operations=control.operations(),
                instruction=instruction,
                follow=follow,
            )
        )
    return steps
