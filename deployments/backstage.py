"""What an ingress plays sessions with: the other replicas and the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from deployments.decoding import Decodings
from deployments.messages import EncodedText, Follow, Instruction, OpenRequest, StepRequest
from deployments.rebuild_turns import RebuildTurns
from deployments.session_record import SessionRecord
from deployments.session_store import SessionStore
from deployments.settings import ServeSettings
from deployments.world_client import WorldClient, WorldPast
from deployments.world_lanes import WorldLanes
from gamegen.session_log import VideoPrompt, unpack_controls


@dataclass(frozen=True)
class Backstage:
    """The same for every session of an ingress replica.

    `encode` raises ApiError for a text that is refused, `encode_video` for a video prompt; `capacity` tells how many
    may play at once; worlds that were lost are brought back in `turns`.
    """

    settings: ServeSettings
    store: SessionStore
    worlds: WorldLanes
    decodings: Decodings
    encode: Callable[[str, str | None], Awaitable[EncodedText]]
    encode_video: Callable[[VideoPrompt], Awaitable[np.ndarray]]
    capacity: Callable[[], Awaitable[int]]
    turns: RebuildTurns


async def resume_world(record: SessionRecord, backstage: Backstage) -> WorldClient:
    """A claimed session's world where its log ends; raises ApiError if words or videos cannot be read just now."""
    spec = record.spec
    prompt = await backstage.encode(spec.prompt, spec.perspective)
    return WorldClient(
        backstage.worlds.of(record.id),
        OpenRequest(record.id, record.fence, prompt, spec.seed, spec.first_frames),
        WorldPast(record.snapshot, await _steps(record, backstage)),
        record.version + record.first_chunks,
        backstage.settings.world.snapshot_every_chunks,
        backstage.settings.ingress.recovery_timeout_s,
        backstage.turns,
    )


async def _steps(record: SessionRecord, backstage: Backstage) -> list[StepRequest]:
    """How the chunks since the snapshot are drawn again."""
    said = {words.chunk: words for words in record.spoken if words.chunk >= record.snapshot_version}
    followed = {it.chunk: it.video_prompt for it in record.followed if it.chunk >= record.snapshot_version}
    steps = []
    for chunk, control in enumerate(unpack_controls(record.controls)):
        if chunk < record.snapshot_version:
            continue
        instruction = follow = None
        if chunk in said:
            words = await backstage.encode(said[chunk].text, None) if said[chunk].text else None
            instruction = Instruction(words, said[chunk].blend_chunks)
        if chunk in followed:
            name = followed[chunk]
            latents = await backstage.encode_video(record.video_prompts[name]) if name else None
            follow = Follow(latents)
        # What a world goes on from are its first chunks, which nobody played.
        place = record.id, record.fence, chunk + record.first_chunks
        steps.append(StepRequest(*place, control.operations(), instruction, follow=follow))
    return steps
