"""One socket's life: hello with the token, admission queue, play, and the close code."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextvars import Context
from dataclasses import dataclass

from valkey.exceptions import ValkeyError

from deployments.background import cancel_and_wait
from deployments.clients.world_client import WorldLostError, WorldRefusedError
from deployments.errors import ApiError, user_full
from deployments.observability import play_metrics
from deployments.rate_limit import InstructionLimiter
from deployments.replicas.messages import InstructionUpdate
from deployments.sessions.session_record import SessionRecord
from deployments.sessions.store_errors import SessionGoneError, SessionMovedError, UserFullError
from deployments.stream.client_messages import (
    ByeMessage,
    ControlMessage,
    HelloMessage,
    SettingsMessage,
    SpokenInstruction,
)
from deployments.stream.context import PlayContext, resume_world
from deployments.stream.input_state import InputState
from deployments.stream.journal import RENEW_INTERVAL_S, SessionJournal
from deployments.stream.player import SessionPlayer
from deployments.stream.socket_connection import (
    CLOSE_ENDED,
    CLOSE_IDLE,
    CLOSE_MIGRATE,
    CLOSE_TAKEN_OVER,
    CLOSE_UNKNOWN_SESSION,
    CLOSE_WRONG_TOKEN,
    Connection,
    Message,
)
from deployments.stream.video_prompt_loader import VideoPromptLoader
from deployments.stream.wire import BinaryControl
from gamegen.constants import FPS

logger = logging.getLogger("ray.serve")

_QUEUE_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Ending:
    """Close code of a stream and the reason for the client."""

    code: int
    reason: str


class SessionStream:
    """Plays one session on one socket."""

    def __init__(self, session_id: str, connection: Connection, context: PlayContext) -> None:
        self.session_id = session_id
        self.player: SessionPlayer | None = None
        self._input = InputState()
        self._early: dict[str, Message] = {}
        self._instruction_limiter = InstructionLimiter(context.settings.ingress, ())
        self._video_prompts = VideoPromptLoader(
            session_id=session_id,
            store=context.store,
            encode_video=context.replicas.encode_video,
            connection=connection,
        )
        self._connection = connection
        self._context = context
        self._settings = context.settings.ingress
        self._store = context.store
        self._active_s = time.monotonic()
        self._migrating = asyncio.Event()

    async def run(self, is_known: bool = False) -> None:
        """Plays until the socket is closed by either side; with `is_known` no hello is waited for."""
        messages = self._connection.messages()
        if not is_known and not await self._receive_hello(messages):
            return
        # In a context without Serve's request: when a request's socket closes, Serve cancels what that request has
        # asked of other replicas from another thread, which asyncio does not allow: answers may be lost.
        playing = asyncio.create_task(self._play(), context=Context())
        listening = asyncio.create_task(self._listen(messages), context=Context())
        try:
            await asyncio.wait({playing, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(listening, playing)
            await self._video_prompts.end()
        for task in (listening, playing):
            # Either may fail before the session is played: the client is told the reason all the same.
            if not task.cancelled() and (failure := task.exception()):
                await self._send_ending(self._ending_of(failure))
                return
        if not playing.cancelled():
            await self._send_ending(playing.result())

    def migrate(self) -> None:
        """Sends the player to another ingress replica."""
        self._migrating.set()

    async def _receive_hello(self, messages: AsyncIterator[Message]) -> bool:
        """Waits for a hello with the session's token; if none comes, closes the socket and returns false."""
        try:
            async with asyncio.timeout(self._settings.hello_timeout_s):
                hello = await anext(messages, None)
        except TimeoutError:
            await self._connection.close(CLOSE_WRONG_TOKEN, "no hello came")
            return False
        if hello is None:
            return False
        refusal = await self._check_hello(hello)
        if refusal:
            await self._send_ending(refusal)
        return refusal is None

    async def _check_hello(self, hello: Message) -> Ending | None:
        """Ending for a first message that is no valid hello; None for a valid one."""
        if not isinstance(hello, HelloMessage):
            return Ending(CLOSE_WRONG_TOKEN, 'the first message is {"type": "hello", "token": ...}')
        try:
            record = await self._store.summary(self.session_id)
        except SessionGoneError:
            reason = "no such session: it has ended or never was, begin one with POST /v1/sessions"
            return Ending(CLOSE_UNKNOWN_SESSION, reason)
        except (ValkeyError, OSError):
            return Ending(CLOSE_MIGRATE, "the session store does not answer: try again in a few seconds")
        if not record.is_token(hello.token):
            return Ending(CLOSE_WRONG_TOKEN, "this is not the session's resume_token")
        return None

    async def _send_ending(self, ending: Ending) -> None:
        if ending.code == CLOSE_MIGRATE:
            play_metrics.RECOVERIES.add(tag="migrate_sent")
            await self._connection.send_message({"type": "migrate", "reason": ending.reason})
        elif ending.code == CLOSE_WRONG_TOKEN or ending.code == CLOSE_UNKNOWN_SESSION:
            await self._connection.send_error("refused", ending.reason, fatal=True)
        else:
            kind = {"type": "bye", "reason": ending.reason, "code": ending.code}
            await self._connection.send_message(kind)
        await self._connection.close(ending.code, ending.reason)

    async def _listen(self, messages: AsyncIterator[Message]) -> None:
        async for message in messages:
            if isinstance(message, ByeMessage):
                await self._delete()
                await self._connection.close(CLOSE_ENDED, "bye")
                return
            self._active_s = time.monotonic()
            if isinstance(message, BinaryControl):
                self._input.replace(message)
            elif isinstance(message, ControlMessage):
                self._input.apply(message)
            if self.player:
                await self._handle(self.player, message)
            else:
                self._note_early(message)

    def _note_early(self, message: Message) -> None:
        """Who waits for a place may say already how to begin: the newest words, video prompt and settings count."""
        if isinstance(message, SettingsMessage):
            self._early["settings"] = message
        elif isinstance(message, ControlMessage):
            if message.instruction:
                self._early["instruction"] = message.model_copy(update={"video_prompt": None})
            if message.video_prompt:
                self._early["video_prompt"] = message.model_copy(update={"instruction": None})

    async def _handle(self, player: SessionPlayer, message: Message) -> None:
        if isinstance(message, ControlMessage):
            if message.video_prompt:
                await self._video_prompts.start(player, message.video_prompt.id, message.timestamp)
            if message.instruction:
                await self._instruct(player, message.instruction, message.timestamp)
        elif isinstance(message, SettingsMessage):
            await self._set(player, message)

    async def _set(self, player: SessionPlayer, settings: SettingsMessage) -> None:
        player.clock.target_fps = settings.fps or player.clock.target_fps
        player.every = settings.every or player.every
        player.format = settings.format or player.format
        if settings.format == "fmp4":
            # A client that asks again may have dropped the init segment that it had.
            self._connection.repeat_init()
        told = {"fps": player.clock.target_fps, "every": player.every, "format": player.format}
        await self._connection.send_message({"type": "settings", **told})

    async def _instruct(self, player: SessionPlayer, spoken: SpokenInstruction, timestamp: float) -> None:
        start = time.monotonic()
        try:
            self._instruction_limiter.check(spoken.text)
            words = await self._context.replicas.encode_text(spoken.text, None) if spoken.text else None
        except ApiError as error:
            await self._connection.send_error(error.code, error.message)
            return
        self._instruction_limiter.record(spoken.text)
        chunk = player.instruct(spoken.text, InstructionUpdate(words, spoken.blend_chunks))
        ack = {
            "type": "ack",
            "instruction": spoken.text,
            "chunk": chunk,
            "timestamp": timestamp,
            "encode_ms": round(1000 * (time.monotonic() - start), 2),
            "step_delay_ms": round(1000 * player.clock.step_delay_s(), 2),
        }
        await self._connection.send_message(ack)

    async def _play(self) -> Ending:
        """Waits for admission, claims the session and plays it; returns the ending."""
        try:
            await self._wait_for_admission()
            record = await self._store.claim(self.session_id)
        except SessionGoneError:
            return Ending(CLOSE_ENDED, "the session was deleted")
        except (ValkeyError, OSError):
            return Ending(CLOSE_MIGRATE, "the session store does not answer: try again in a few seconds")
        journal = SessionJournal(self._store, record)
        try:
            return await self._play_claimed(record, journal)
        finally:
            self.player = None
            # Shielded: a cancellation must not leave the place taken.
            await asyncio.shield(journal.release())

    @play_metrics.SESSIONS_PLAYING.during
    async def _play_claimed(self, record: SessionRecord, journal: SessionJournal) -> Ending:
        play_metrics.record_claim(record)
        await journal.flush()
        try:
            world = await resume_world(record, self._context)
        except ApiError as error:
            return Ending(CLOSE_MIGRATE, error.message)
        spec = record.spec
        player = SessionPlayer(
            world=world,
            decoder=self._context.replicas.decoder,
            size=(spec.width, spec.height),
            input_state=self._input,
            journal=journal,
            sink=self._connection,
            target_fps=self._settings.target_fps,
        )
        self.player, self._active_s = player, time.monotonic()
        self._instruction_limiter = InstructionLimiter(self._settings, record.spoken)
        welcome = {**address(record, self._connection.base_path), "chunk": record.version}
        await self._connection.send_message({"type": "welcome", **welcome, "instruction": record.instruction})
        for message in self._early.values():
            await self._handle(player, message)
        tasks = [asyncio.create_task(player.run()), asyncio.create_task(self._watch(journal))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended = done.pop()
            failure = ended.exception()
            if failure is not None:
                return self._ending_of(failure)
            ending = ended.result()
            assert isinstance(ending, Ending)
            return ending
        finally:
            await cancel_and_wait(*tasks)
            if player.world.version and journal.record.version == 0:
                # Nothing was logged: the next owner begins the world anew.
                await world.close()

    def _ending_of(self, error: BaseException) -> Ending:
        if isinstance(error, SessionMovedError):
            return Ending(CLOSE_TAKEN_OVER, "another connection took this session over")
        if isinstance(error, SessionGoneError):
            return Ending(CLOSE_ENDED, "the session was deleted")
        if isinstance(error, WorldRefusedError):
            return Ending(CLOSE_ENDED, str(error))
        if isinstance(error, WorldLostError):
            logger.error("session %s: %s", self.session_id, error, exc_info=error.__cause__)
            return Ending(CLOSE_MIGRATE, f"{error}: try again in a few seconds")
        logger.error("session %s failed", self.session_id, exc_info=error)
        return Ending(CLOSE_MIGRATE, "something failed on the server")

    async def _watch(self, journal: SessionJournal) -> Ending:
        """Renews the session's lease; returns an ending for a migration, a silent or idle client, or the time limit."""
        began_s = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(RENEW_INTERVAL_S):
                    await self._migrating.wait()
                return Ending(CLOSE_MIGRATE, "this server is going: another has the session")
            except TimeoutError:
                await journal.flush()
            now, settings = time.monotonic(), self._settings
            if self._connection.count_silence(RENEW_INTERVAL_S) > settings.silence_timeout_s:
                return Ending(CLOSE_IDLE, f"nothing was heard for {settings.silence_timeout_s:g} s")
            if now - self._active_s > settings.idle_timeout_s:
                return Ending(CLOSE_IDLE, f"nothing was done for {settings.idle_timeout_s:g} s")
            if now - began_s > settings.session_timeout_s:
                return Ending(CLOSE_IDLE, f"played for {settings.session_timeout_s:g} s: take a break")

    @play_metrics.SESSIONS_QUEUED.during
    async def _wait_for_admission(self) -> None:
        told: int | None = None
        while True:
            try:
                position = await self._context.queue.admit(
                    self.session_id, await self._context.capacity.current()
                )
            except UserFullError as error:
                if told != 0:
                    told, refusal = 0, user_full(error)
                    await self._connection.send_error(refusal.code, refusal.message)
            else:
                if position == 0:
                    return
                if position != told:
                    told = position
                    await self._connection.send_message({"type": "queued", "position": position})
            await asyncio.sleep(_QUEUE_INTERVAL_S)

    async def _delete(self) -> None:
        try:
            await self._store.delete(self.session_id)
            play_metrics.SESSIONS_ENDED.add(tag="bye")
        except (SessionGoneError, ValkeyError, OSError):
            return


def address(record: SessionRecord, base_path: str) -> dict[str, str | int]:
    """URL below `base_path`, size and frame rate of a session's stream: the fields of `SessionAddress`."""
    stream_url = f"{base_path}/v1/sessions/{record.id}/stream"
    size = {"width": record.spec.width, "height": record.spec.height}
    return {"id": record.id, "stream_url": stream_url, **size, "fps": FPS}
