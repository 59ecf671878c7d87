"""A few chunks of a session without a socket, for programs that look at each before they go on."""

from __future__ import annotations

import base64
import time

from valkey.exceptions import ValkeyError

from deployments.backstage import Backstage, resume_world
from deployments.decoding import ChunkDecoding
from deployments.errors import ApiError, user_full
from deployments.journal import SessionJournal
from deployments.messages import Chunk, DecodeRequest, EncodedText, Instruction
from deployments.pacing import ChunkClock
from deployments.schemas import OneShot, OneShotFrames
from deployments.session_record import Entry, SessionRecord
from deployments.session_store import SessionGoneError, SessionMovedError, UserFullError
from deployments.speech import Speech
from deployments.world_client import WorldLostError, WorldRefusedError
from gamegen.controls import Control
from gamegen.session_log import Spoken, rounded


async def play_once(record: SessionRecord, order: OneShot, backstage: Backstage) -> OneShotFrames:
    """Plays `order.chunks` chunks under one control and returns their frames.

    Raises ApiError: 401 for a wrong token, 409 while a socket plays the session, 422 for words that are refused, 429
    when all places are taken, 503 when a replica or the store does not answer.
    """
    if not record.is_token(order.resume_token):
        raise ApiError(401, "wrong_token", "this is not the session's resume_token")
    if record.state in ("playing", "recovering"):
        raise ApiError(
            409, "session_is_played", "a socket plays this session: close it first", retry_after_s=1
        )
    said = order.instruction
    words = await backstage.encode(said.text, None) if said and said.text else None
    try:
        position = await backstage.store.admit(record.id, await backstage.capacity())
        if position:
            retry_s = await backstage.store.retry_after_s(position)
            message = f"all places are taken, {position - 1} wait before you: try again in {retry_s} s"
            raise ApiError(429, "too_many_sessions", message, retry_s)
        claimed = await backstage.store.claim(record.id)
        journal = SessionJournal(backstage.store, claimed)
        try:
            if said:
                Speech(backstage.settings.ingress, claimed.spoken).check(said.text)
            return await _play(journal, order, words, backstage)
        finally:
            await backstage.store.release(journal.record)
    except UserFullError as error:
        raise user_full(error) from error
    except SessionGoneError as error:
        raise ApiError(404, "unknown_session", "the session was deleted") from error
    except SessionMovedError as error:
        raise ApiError(409, "session_is_played", str(error), retry_after_s=1) from error
    except WorldRefusedError as error:
        raise ApiError(422, "world_refused", str(error)) from error
    except (WorldLostError, ValkeyError, OSError) as error:
        message = "the world cannot be reached just now: try again in a few seconds"
        raise ApiError(503, "not_ready", message, retry_after_s=5) from error


async def _play(
    journal: SessionJournal, order: OneShot, words: EncodedText | None, backstage: Backstage
) -> OneShotFrames:
    spec = journal.record.spec
    world = await resume_world(journal.record, backstage)
    await world.begin()
    camera = order.camera
    control = rounded(
        Control(order.keys, camera.yaw_deg, camera.pitch_deg) if camera else Control(order.keys)
    )
    first, jpegs = journal.record.version, []
    for number in range(first, first + order.chunks):
        spoken: tuple[Spoken, ...] = ()
        instruction = None
        if order.instruction and number == first:
            spoken = (Spoken(number, order.instruction.text, order.instruction.blend_chunks),)
            instruction = Instruction(words, order.instruction.blend_chunks)
        memory = world.latent
        begun_s = time.monotonic()
        chunk: Chunk = await world.step(control.operations(), instruction)
        journal.add(Entry(control, spoken), chunk.snapshot)
        request = DecodeRequest(chunk.latent, memory, (spec.width, spec.height))
        decoding = ChunkDecoding(backstage.decodings, request, ChunkClock(), begun_s)
        jpegs += [file async for file, _ in decoding]
    journal.frames_sent += len(jpegs)
    await journal.flush()
    frames = [base64.b64encode(jpeg).decode() for jpeg in jpegs]
    return OneShotFrames(session_id=journal.record.id, chunk=first, frames=frames)
