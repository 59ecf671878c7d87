"""`POST /v1/control`: a few chunks of a session without a socket, for programs that look at each before the next."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine
from typing import Any

from valkey.exceptions import ValkeyError

from deployments.background import cancel_and_wait
from deployments.clients.decoder_client import DecodeStream
from deployments.clients.retry import ReplicaUnavailableError
from deployments.clients.world_client import WorldClient, WorldRefusedError
from deployments.errors import ApiError, user_full
from deployments.ingress.schemas import OneShot, OneShotFrames
from deployments.rate_limit import InstructionLimiter
from deployments.replicas.messages import DecodeRequest, EncodedText, InstructionUpdate
from deployments.sessions.session_record import LoggedChunk, SessionRecord
from deployments.sessions.store_errors import SessionGoneError, SessionMovedError, UserFullError
from deployments.stream.context import PlayContext, resume_world
from deployments.stream.journal import SessionJournal
from gamegen.controls import Control
from gamegen.sessions.log import LoggedInstruction, rounded


async def play_once(record: SessionRecord, order: OneShot, context: PlayContext) -> OneShotFrames:
    """Plays `order.chunks` chunks under one control and returns their frames, once all chunks are logged.

    Raises ApiError: 401 for a wrong token, 409 while a socket plays the session, 422 for an instruction that is
    refused, 429 when as many sessions play as there is capacity for, 503 when a replica or the store does not answer.
    """
    if not record.is_token(order.resume_token):
        raise ApiError(401, "wrong_token", "this is not the session's resume_token")
    if record.state in ("playing", "recovering"):
        raise ApiError(
            409, "session_is_played", "a socket plays this session: close it first", retry_after_s=1
        )
    said = order.instruction
    words = await context.replicas.encode_text(said.text, None) if said and said.text else None
    try:
        await _admit(record, context)
        journal = SessionJournal(context.store, await context.store.claim(record.id))
        try:
            if said:
                InstructionLimiter(context.settings.ingress, journal.record.spoken).check(said.text)
            return await _with_lease(journal, _play(journal, order, words, context))
        finally:
            # Shielded: a cancelled request must not leave the place taken.
            await asyncio.shield(journal.release())
    except UserFullError as error:
        raise user_full(error) from error
    except SessionGoneError as error:
        raise ApiError(404, "unknown_session", "the session was deleted") from error
    except SessionMovedError as error:
        raise ApiError(409, "session_is_played", str(error), retry_after_s=1) from error
    except WorldRefusedError as error:
        raise ApiError(422, "world_refused", str(error)) from error
    except (ReplicaUnavailableError, ValkeyError, OSError) as error:
        message = "the world cannot be reached just now: try again in a few seconds"
        raise ApiError(503, "not_ready", message, retry_after_s=5) from error


async def _admit(record: SessionRecord, context: PlayContext) -> None:
    position = await context.queue.admit(record.id, await context.capacity.current())
    if position:
        retry_s = await context.queue.retry_after_s(position)
        message = f"all places are taken, {position - 1} wait before you: try again in {retry_s} s"
        raise ApiError(429, "too_many_sessions", message, retry_after_s=retry_s)


async def _with_lease(journal: SessionJournal, playing: Coroutine[Any, Any, OneShotFrames]) -> OneShotFrames:
    """Runs `playing` while the session's lease is renewed; whichever of the two fails first is raised."""
    play, renewal = asyncio.create_task(playing), asyncio.create_task(journal.renew_lease())
    try:
        done, _ = await asyncio.wait({play, renewal}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(play, renewal)
    return play.result() if play in done else renewal.result()


async def _play(
    journal: SessionJournal, order: OneShot, words: EncodedText | None, context: PlayContext
) -> OneShotFrames:
    world = await resume_world(journal.record, context)
    await world.begin()
    first, jpegs = journal.record.version, []
    for number in range(first, first + order.chunks):
        said = order.instruction if number == first else None
        spoken = (LoggedInstruction(number, said.text, said.blend_chunks),) if said else ()
        instruction = InstructionUpdate(words, said.blend_chunks) if said else None
        logged = LoggedChunk(_control(order), spoken)
        decoding = await _draw(journal, world, logged, instruction, context)
        try:
            await _log(journal)
            jpegs += [file async for file, _ in decoding]
        finally:
            decoding.cancel()
    journal.frames_sent += len(jpegs)
    await _log(journal)
    frames = [base64.b64encode(jpeg).decode() for jpeg in jpegs]
    return OneShotFrames(session_id=journal.record.id, chunk=first, frames=frames)


def _control(order: OneShot) -> Control:
    camera = order.camera
    return rounded(Control(order.keys, camera.yaw_deg, camera.pitch_deg) if camera else Control(order.keys))


async def _draw(
    journal: SessionJournal,
    world: WorldClient,
    logged: LoggedChunk,
    instruction: InstructionUpdate | None,
    context: PlayContext,
) -> DecodeStream:
    """Draws a chunk, enters it into the journal and starts to decode it."""
    spec, previous = journal.record.spec, world.latent
    chunk = await world.step(logged.control.operations(), instruction)
    journal.add(logged, chunk.snapshot)
    request = DecodeRequest(
        latent=chunk.latent,
        previous=previous,
        size=(spec.width, spec.height),
        reference=chunk.reference,
    )
    return context.replicas.decoder.start(request)


async def _log(journal: SessionJournal) -> None:
    """Raises ApiError (503) unless all chunks so far are logged: frames of a chunk that is not would be lost."""
    await journal.flush()
    if journal.num_held_back:
        message = (
            f"the session store does not answer, and chunks from {journal.num_logged} on are not logged: "
            "try again in a few seconds"
        )
        raise ApiError(503, "not_ready", message, retry_after_s=5)
