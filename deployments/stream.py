"""A socket from hello to goodbye: token, turn in the queue, play, and why it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from valkey.exceptions import ValkeyError

from deployments import metrics
from deployments.backstage import Backstage, resume_world
from deployments.client_messages import (
    ByeMessage,
    ControlMessage,
    HelloMessage,
    SettingsMessage,
    SpokenInstruction,
)
from deployments.connection import (
    CLOSE_ENDED,
    CLOSE_IDLE,
    CLOSE_MIGRATE,
    CLOSE_TAKEN_OVER,
    CLOSE_UNKNOWN_SESSION,
    CLOSE_WRONG_TOKEN,
    Connection,
    Message,
)
from deployments.errors import ApiError, user_full
from deployments.following import Following
from deployments.held_controls import HeldControls
from deployments.journal import SessionJournal
from deployments.messages import Instruction
from deployments.player import Player
from deployments.session_record import SessionRecord
from deployments.session_store import SessionGoneError, SessionMovedError, UserFullError
from deployments.speech import Speech
from deployments.tasks import end
from deployments.wire import BinaryControl
from deployments.world_client import WorldLostError, WorldRefusedError
from gamegen.controls import FPS

logger = logging.getLogger("ray.serve")

_WATCH_INTERVAL_S = 1.0
_QUEUE_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Ending:
    """Why a stream ends: a close code and a reason."""

    code: int
    reason: str


class Stream:
    """Plays one session on one socket."""

    def __init__(self, session_id: str, connection: Connection, backstage: Backstage) -> None:
        self.session_id = session_id
        self.player: Player | None = None
        self._controls = HeldControls()
        self._early: dict[str, Message] = {}
        self._speech = Speech(backstage.settings.ingress, ())
        self._following = Following(session_id, backstage, connection)
        self._connection = connection
        self._backstage = backstage
        self._settings = backstage.settings.ingress
        self._store = backstage.store
        self._active_s = time.monotonic()
        self._migrating = asyncio.Event()

    async def run(self, is_known: bool = False) -> None:
        """Returns when the socket is closed, by whichever side; a known player need not say hello."""
        messages = self._connection.messages()
        if not is_known and not await self._is_greeted(messages):
            return
        playing, listening = asyncio.create_task(self._play()), asyncio.create_task(self._listen(messages))
        try:
            await asyncio.wait({playing, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(listening, playing)
            await self._following.end()
        for task in (listening, playing):
            # Either may fail before there is anything to end: a socket is told why all the same.
            if not task.cancelled() and (failure := task.exception()):
                await self._say_ending(self._ending_of(failure))
                return
        if not playing.cancelled():
            await self._say_ending(playing.result())

    def migrate(self) -> None:
        """Sends the player to another ingress replica."""
        self._migrating.set()

    async def _is_greeted(self, messages: AsyncIterator[Message]) -> bool:
        """Whether the right hello comes; if not, the socket is closed."""
        try:
            async with asyncio.timeout(self._settings.hello_timeout_s):
                hello = await anext(messages, None)
        except TimeoutError:
            await self._connection.close(CLOSE_WRONG_TOKEN, "no hello came")
            return False
        if hello is None:
            return False
        refusal = await self._refusal(hello)
        if refusal:
            await self._say_ending(refusal)
        return refusal is None

    async def _refusal(self, hello: Message) -> Ending | None:
        """Why a first message opens nothing, or None if it does."""
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

    async def _say_ending(self, ending: Ending) -> None:
        if ending.code == CLOSE_MIGRATE:
            metrics.RECOVERIES.add(tag="migrate_sent")
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
                self._controls.hold(message)
            elif isinstance(message, ControlMessage):
                self._controls.apply(message)
            if self.player:
                await self._tell(self.player, message)
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

    async def _tell(self, player: Player, message: Message) -> None:
        if isinstance(message, ControlMessage):
            if message.video_prompt:
                await self._following.begin(player, message.video_prompt.id, message.timestamp)
            if message.instruction:
                await self._instruct(player, message.instruction, message.timestamp)
        elif isinstance(message, SettingsMessage):
            await self._set(player, message)

    async def _set(self, player: Player, settings: SettingsMessage) -> None:
        player.clock.target_fps = settings.fps or player.clock.target_fps
        player.every = settings.every or player.every
        player.format = settings.format or player.format
        if settings.format:
            # Whoever asks anew may have let go of what it had.
            self._connection.repeat_init()
        told = {"fps": player.clock.target_fps, "every": player.every, "format": player.format}
        await self._connection.send_message({"type": "settings", **told})

    async def _instruct(self, player: Player, spoken: SpokenInstruction, timestamp: float) -> None:
        start = time.monotonic()
        try:
            self._speech.check(spoken.text)
            words = await self._backstage.encode(spoken.text, None) if spoken.text else None
        except ApiError as error:
            await self._connection.send_error(error.code, error.message)
            return
        self._speech.said(spoken.text)
        chunk = player.instruct(spoken.text, Instruction(words, spoken.blend_chunks))
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
        """Waits for a place and plays; returns why it ended."""
        try:
            await self._wait_for_place()
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
            # Shielded: whoever cancels this must not leave the place taken.
            await asyncio.shield(self._release(journal))

    @metrics.SESSIONS_PLAYING.during
    async def _play_claimed(self, record: SessionRecord, journal: SessionJournal) -> Ending:
        metrics.record_claim(record)
        await journal.flush()
        try:
            world = await resume_world(record, self._backstage)
        except ApiError as error:
            return Ending(CLOSE_MIGRATE, error.message)
        spec = record.spec
        player = Player(
            world,
            self._backstage.decodings,
            (spec.width, spec.height),
            self._controls,
            journal,
            self._connection,
        )
        self.player, self._active_s = player, time.monotonic()
        self._speech = Speech(self._settings, record.spoken)
        await self._connection.send_message(
            {"type": "welcome", **address(record), "chunk": record.version, "instruction": record.instruction}
        )
        for message in self._early.values():
            await self._tell(player, message)
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
            await end(*tasks)
            if player.world.version and journal.record.version == 0:
                # Nothing was logged: whoever comes next begins anew.
                await world.close()

    def _ending_of(self, error: BaseException) -> Ending:
        if isinstance(error, SessionMovedError):
            return Ending(CLOSE_TAKEN_OVER, "another connection took this session over")
        if isinstance(error, SessionGoneError):
            return Ending(CLOSE_ENDED, "the session was deleted")
        if isinstance(error, WorldRefusedError):
            return Ending(CLOSE_ENDED, str(error))
        if isinstance(error, WorldLostError):
            logger.error("session %s: %s", self.session_id, error)
            return Ending(CLOSE_MIGRATE, f"{error}: try again in a few seconds")
        logger.error("session %s failed", self.session_id, exc_info=error)
        return Ending(CLOSE_MIGRATE, "something failed on the server")

    async def _watch(self, journal: SessionJournal) -> Ending:
        """Tells the store that the session is played, and ends it when it should not be any more."""
        began_s = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(_WATCH_INTERVAL_S):
                    await self._migrating.wait()
                return Ending(CLOSE_MIGRATE, "this server is going: another has the session")
            except TimeoutError:
                await journal.flush()
            now, settings = time.monotonic(), self._settings
            if self._connection.count_silence(_WATCH_INTERVAL_S) > settings.silence_timeout_s:
                return Ending(CLOSE_IDLE, f"nothing was heard for {settings.silence_timeout_s:g} s")
            if now - self._active_s > settings.idle_timeout_s:
                return Ending(CLOSE_IDLE, f"nothing was done for {settings.idle_timeout_s:g} s")
            if now - began_s > settings.session_timeout_s:
                return Ending(CLOSE_IDLE, f"played for {settings.session_timeout_s:g} s: take a break")

    @metrics.SESSIONS_QUEUED.during
    async def _wait_for_place(self) -> None:
        told: int | None = None
        while True:
            try:
                position = await self._store.admit(self.session_id, await self._backstage.capacity())
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

    async def _release(self, journal: SessionJournal) -> None:
        journal.close()
        try:
            await self._store.release(journal.record)
        except (ValkeyError, OSError) as error:
            logger.warning("session %s could not be released, its lease will end: %s", self.session_id, error)

    async def _delete(self) -> None:
        try:
            await self._store.delete(self.session_id)
            metrics.SESSIONS_ENDED.add(tag="bye")
        except (SessionGoneError, ValkeyError, OSError):
            return


def address(record: SessionRecord) -> dict[str, str | int]:
    """Where and how a session is played, the fields of `SessionAddress`."""
    stream_url = f"/v1/sessions/{record.id}/stream"
    size = {"width": record.spec.width, "height": record.spec.height}
    return {"id": record.id, "stream_url": stream_url, **size, "fps": FPS}
