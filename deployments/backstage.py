"""What an ingress plays sessions with: the other replicas and the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from deployments.messages import EncodedText, Instruction, OpenRequest, StepRequest
from deployments.session_store import SessionRecord, SessionStore
from deployments.settings import ServeSettings
from deployments.world_client import WorldClient, WorldPast
from gamegen.session_log import unpack_controls


@dataclass(frozen=True)
class Backstage:
    """The same for every session of an ingress replica.

    `encode` raises ApiError for a text that is refused; `capacity` tells how many may play at once.
    """

    settings: ServeSettings
    store: SessionStore
    world: DeploymentHandle
    decoder: DeploymentHandle
    encode: Callable[[str, str | None], Awaitable[EncodedText]]
    capacity: Callable[[], Awaitable[int]]


async def resume_world(record: SessionRecord, backstage: Backstage) -> WorldClient:
    """A claimed session's world where its log ends; raises ApiError if the words cannot be read just now."""
    spec, encode = record.spec, backstage.encode
    prompt = await encode(spec.prompt, spec.perspective)
    opening = OpenRequest(record.id, record.fence, prompt, spec.seed, spec.first_frames)
    # What a world goes on from are its first chunks, which nobody played.
    offset = record.first_chunks
    said = {words.chunk: words for words in record.spoken if words.chunk >= record.snapshot_version}
    steps = []
    for chunk, control in enumerate(unpack_controls(record.controls)):
        if chunk < record.snapshot_version:
            continue
        instruction = None
        if chunk in said:
            words = await encode(said[chunk].text, None) if said[chunk].text else None
            instruction = Instruction(words, said[chunk].blend_chunks)
        steps.append(StepRequest(record.id, record.fence, chunk + offset, control.operations(), instruction))
    return WorldClient(
        backstage.world,
        opening,
        WorldPast(record.snapshot, steps),
        record.version + offset,
        backstage.settings.world.snapshot_every_chunks,
        backstage.settings.ingress.recovery_timeout_s,
    )
