"""The public address: REST, the stream's sockets and the page.

Serve ships the class by value as it is when it is decorated: annotations are not postponed, because FastAPI
could not look their names up there, and nothing of this module may be defined below the class.
"""

import asyncio
import importlib
import platform
import time
from pathlib import Path
from typing import Annotated, Any

import ray
from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import HTTPConnection

import gamegen
from deployments import metrics
from deployments.backstage import Backstage
from deployments.body_limit import BodyLimit
from deployments.connection import CLOSE_ENDED, Connection
from deployments.decoding import Decodings
from deployments.direct import DirectDoor
from deployments.draining import DrainWatch
from deployments.errors import ApiError, describe_problems, install_error_handlers
from deployments.messages import EncodedText, Refusal
from deployments.one_shot import play_once
from deployments.places import Places
from deployments.rebuild_turns import RebuildTurns
from deployments.schemas import (
    MAX_BODY_BYTES,
    ErrorBody,
    NewSession,
    NewVideoPrompt,
    OneShot,
    OneShotFrames,
    SessionCreated,
    SessionList,
    SessionState,
    VideoPromptKept,
)
from deployments.session_record import SessionRecord
from deployments.session_store import SessionStore
from deployments.sessions import SessionBook, state_of
from deployments.settings import ServeSettings
from deployments.stream import Stream, address
from deployments.uploads import Uploads
from deployments.users import user_of
from deployments.videos import counter
from deployments.videos.aliases import Aliases
from deployments.videos.problems import refusal
from deployments.videos.routes import mount_videos
from deployments.world_lanes import WorldLanes
from gamegen.database.patience import DatabaseAwayError
from gamegen.session_file import to_json
from gamegen.session_log import VideoPrompt, WorldSpec

STATIC_FOLDER = Path(__file__).parent / "static"
INGRESS_HEALTH_CHECK_S = 1.0
_ENCODE_TIMEOUT_S = 20.0
_ENCODE_DELAYS_S = (0.05, 0.1, 0.2)
_HEALTH_TIMEOUT_S = 5.0


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an operation may answer when it does not succeed, for its description."""
    return {status: {"model": ErrorBody} for status in statuses}


def _invalid(error: ValidationError) -> ApiError:
    return ApiError(422, "invalid_request", describe_problems(error.errors()))


api = FastAPI(
    title="GameGen",
    version=gamegen.__version__,
    description="Playable game worlds drawn by a video model. The stream of `/v1/sessions/{id}/stream` is a "
    "WebSocket: JSON text in, JSON text and binary JPEG frames out; `/docs` describes its messages.",
    # The ready-made pages load their scripts from the internet; ours is in the static folder.
    docs_url=None,
    redoc_url=None,
)
install_error_handlers(api)
mount_videos(api, counter.video_api)
api.add_middleware(Aliases)
api.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES, refuse=refusal)
api.mount("/static", StaticFiles(directory=STATIC_FOLDER), name="static")


@serve.deployment(name="Ingress")
@serve.ingress(api)
class Ingress:
    """Owns the sockets and each session's chunk loop; everything heavy happens behind its handles."""

    def __init__(
        self,
        settings: ServeSettings,
        places: Places,
        text_encoder: DeploymentHandle,
        world: DeploymentHandle,
        decoder: DeploymentHandle,
        generator: DeploymentHandle,
        clerk: DeploymentHandle,
    ) -> None:
        self._settings = settings
        self._text_encoder = text_encoder
        self._world = world
        store = SessionStore(places.store_url, SessionBook.store_limits(settings))
        self._sessions = SessionBook(settings, store)
        self._uploads = Uploads(settings.ingress, world)
        worlds = WorldLanes(world, settings.world.lanes, settings.world.slots)
        decodings = Decodings(decoder, settings.decoder.replicas, settings.decoder.max_batch)
        encoders = self._encode, self._uploads.encode_video
        turns, capacity = RebuildTurns(settings.ingress.rebuilds_at_once), self._sessions.capacity
        self._backstage = Backstage(settings, store, worlds, decodings, *encoders, capacity, turns)
        self._door = DirectDoor(self._play_socket, settings.ingress.direct_host)
        self._draining = DrainWatch(INGRESS_HEALTH_CHECK_S, self._sessions.migrate_all)
        self._places = places
        # They ask for work by themselves; being part of the application is all that their handles are for.
        self._beside = generator, clerk
        self._opening: asyncio.Task[None] | None = None
        self._desk: Any = None
        self._started_s = time.time()
        self._facts: dict[str, Any] | None = None

    async def check_health(self) -> None:
        """Serve asks as long as this replica is in use."""
        self._draining.checked()
        if self._settings.ingress.direct_host:
            self._door.open()
        if not counter.is_open() and (self._opening is None or self._opening.done()):
            self._opening = asyncio.create_task(self._open_desk())

    async def __del__(self) -> None:
        """Serve calls this when the replica ends. Of sockets that came directly it knows nothing."""
        await self._sessions.migrate_all()
        await self._door.close()
        if self._opening:
            self._opening.cancel()
        counter.open_with(None)
        if self._desk:
            await self._desk.close()

    @api.get("/", include_in_schema=False)
    async def page(self) -> FileResponse:
        """The page to play on."""
        return FileResponse(STATIC_FOLDER / "index.html", headers={"Cache-Control": "no-cache"})

    @api.get("/docs", include_in_schema=False)
    async def docs(self) -> FileResponse:
        """The manual of the API."""
        return FileResponse(STATIC_FOLDER / "docs.html")

    @api.post("/v1/sessions", status_code=201, tags=["play"], responses=_errors(401, 404, 413, 422, 429, 503))
    async def create_session(self, wish: NewSession, request: Request) -> SessionCreated:
        """Begins a world; play it on its stream."""
        record, token = await self._begin(wish, request)
        return self._created(record, token, request.url.hostname)

    @api.get("/v1/sessions", tags=["play"], responses=_errors(422, 503))
    async def list_sessions(
        self,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> SessionList:
        """All worlds, the newest first."""
        return await self._sessions.listed(limit, offset)

    @api.get("/v1/sessions/{session_id}", tags=["play"], responses=_errors(404, 503))
    async def get_session(self, session_id: str, request: Request) -> SessionState:
        """A world's state."""
        state = state_of(await self._sessions.summary(session_id))
        return state.model_copy(
            update={"direct_stream_url": self._door.url(session_id, request.url.hostname)}
        )

    @api.get(
        "/v1/sessions/{session_id}/log",
        response_class=Response,
        responses={**_errors(404, 503), 200: {"content": {"application/json": {}}}},
        tags=["play"],
    )
    async def get_session_log(self, session_id: str) -> Response:
        """What a world was played by, for `gamegen replay`."""
        record = await self._sessions.get(session_id)
        text = await asyncio.to_thread(lambda: to_json(record.log()))
        return Response(text, media_type="application/json")

    @api.post(
        "/v1/sessions/{session_id}/video-prompts",
        status_code=201,
        tags=["play"],
        responses=_errors(401, 404, 409, 413, 422, 503),
    )
    async def upload_video_prompt(self, session_id: str, upload: NewVideoPrompt) -> VideoPromptKept:
        """Keeps a video that the world can be told to follow, on its stream."""
        await self._sessions.check_token(session_id, upload.resume_token)
        prompt = VideoPrompt(upload.kind, upload.video)
        num_chunks = await self._uploads.check_video_prompt(prompt, await self._model_facts())
        await self._sessions.keep_video_prompt(session_id, prompt)
        return VideoPromptKept(id=prompt.id, chunks=num_chunks)

    @api.delete(
        "/v1/sessions/{session_id}",
        status_code=204,
        response_class=Response,
        tags=["play"],
        responses=_errors(404),
    )
    async def delete_session(self, session_id: str) -> None:
        """Ends a world."""
        await self._sessions.delete(session_id)

    @api.websocket("/v1/sessions/{session_id}/stream")
    async def stream(self, socket: WebSocket, session_id: str) -> None:
        """Plays a world: see the guide for its messages."""
        await self._play_socket(socket, session_id)

    @api.websocket("/ws/stream")
    async def begin_and_stream(
        self,
        socket: WebSocket,
        prompt: str = "green forest at noon",
        perspective: str = "first",
        seed: int = 0,
    ) -> None:
        """Begins a world and plays it on the same socket, which need not say hello."""
        await socket.accept()
        connection = Connection(socket, self._settings.ingress)
        try:
            wish = NewSession.model_validate({"prompt": prompt, "perspective": perspective, "seed": seed})
            record, token = await self._begin(wish, socket)
        except (ApiError, ValidationError) as error:
            refusal = error if isinstance(error, ApiError) else _invalid(error)
            metrics.REQUESTS_REFUSED.add(tag=refusal.code)
            message = refusal.message
            await connection.send_error("refused", message, fatal=True)
            await connection.close(CLOSE_ENDED, message)
            return
        begun = self._created(record, token, socket.url.hostname)
        await connection.send_message({"type": "session", **begun.model_dump()})
        stream = Stream(record.id, connection, self._backstage)
        with self._sessions.playing(stream):
            await stream.run(is_known=True)

    @api.post("/v1/control", tags=["play"], responses=_errors(401, 404, 409, 422, 429, 503))
    async def control(self, order: OneShot) -> OneShotFrames:
        """Plays a few chunks of a world that no socket plays."""
        record = await self._sessions.summary(order.session_id)
        return await play_once(record, order, self._backstage)

    @api.get("/v1/status", tags=["service"])
    async def status(self, request: Request) -> dict[str, Any]:
        """Sessions, pace, queue, what model is served and the versions; where clips are ordered past the proxy."""
        model = await self._model_facts()
        return {
            "uptime_s": round(time.time() - self._started_s, 1),
            "sessions": await self._sessions.counts(),
            "pace": self._sessions.paces(),
            "clips": await self._clips(),
            "direct_url": self._door.clips_url(request.url.hostname),
            "model": model,
            "versions": {
                "gamegen": gamegen.__version__,
                "ray": ray.__version__,
                "python": platform.python_version(),
            },
        }

    @api.get("/healthz", tags=["service"], responses=_errors(503))
    async def healthz(self) -> dict[str, str]:
        """200 when a world could be begun now."""
        await self._ask_world()
        return {"status": "ok"}

    async def _open_desk(self) -> None:
        """Clips can be ordered from when a world has said what is served, and the libraries for it are loaded."""
        facts = await self._model_facts()
        module = await asyncio.to_thread(importlib.import_module, "deployments.videos.desk")
        desk = module.VideoDesk(
            self._settings, self._places.database_url, self._places.objects_url, self._text_encoder, facts
        )
        await desk.open()
        self._desk = desk
        counter.open_with(desk)

    async def _clips(self) -> dict[str, int] | None:
        """Orders that wait and that are worked on, unless the database is away."""
        try:
            stats = await counter.video_api().service.queue.stats()
        except (ApiError, DatabaseAwayError):
            return None
        return {
            "waiting": sum(tier.pending + tier.queued for tier in stats.tiers.values()),
            "worked_on": sum(tier.leased for tier in stats.tiers.values()),
        }

    async def _encode(self, text: str, perspective: str | None) -> EncodedText:
        """A text's states; with `perspective` it is a world's prompt. Raises ApiError (422, 503)."""
        try:
            async with asyncio.timeout(_ENCODE_TIMEOUT_S):
                encoded = await self._encode_somewhere(text, perspective)
        # A dying replica raises many things; all of them mean that the words can be sent again.
        except Exception as error:
            message = "the words could not be read just now: send them again in a few seconds"
            raise ApiError(503, "not_ready", message, retry_after_s=5) from error
        if isinstance(encoded, Refusal):
            place = "instruction.text" if perspective is None else "prompt"
            raise ApiError(422, "prompt_too_long", f"{place}: {encoded.message}")
        return encoded

    async def _encode_somewhere(self, text: str, perspective: str | None) -> EncodedText | Refusal:
        for delay_s in _ENCODE_DELAYS_S:
            try:
                return await self._text_encoder.encode.remote(text, perspective)
            # Another replica may be there.
            except Exception:
                await asyncio.sleep(delay_s)
        return await self._text_encoder.encode.remote(text, perspective)

    def _created(self, record: SessionRecord, token: str, asked: str | None) -> SessionCreated:
        direct = {"direct_stream_url": self._door.url(record.id, asked)}
        return SessionCreated.model_validate({**address(record), **direct, "resume_token": token})

    async def _play_socket(self, socket: WebSocket, session_id: str) -> None:
        await socket.accept()
        connection = Connection(socket, self._settings.ingress)
        stream = Stream(session_id, connection, self._backstage)
        with self._sessions.playing(stream):
            await stream.run()

    async def _begin(self, wish: NewSession, request: HTTPConnection) -> tuple[SessionRecord, str]:
        user = user_of(request, self._settings.ingress.user_header)
        if wish.branch:
            return await self._sessions.create_branch(wish.branch, user)
        assert wish.prompt is not None
        await self._encode(wish.prompt, wish.perspective)
        facts = await self._model_facts()
        if wish.model not in (None, facts["model"]):
            message = f"model: {wish.model!r} is not served here, {facts['model']!r} is"
            raise ApiError(422, "unknown_model", message)
        width, height = wish.resolution.size if wish.resolution else (facts["width"], facts["height"])
        first_frames, first_chunks = await self._uploads.first_frames(wish, facts)
        about = wish.prompt, wish.perspective, wish.seed, width, height
        spec = WorldSpec(facts["model"], *about, first_frames)
        return await self._sessions.create(spec, first_chunks, user)

    async def _model_facts(self) -> dict[str, Any]:
        # They never change while the application runs, so one answer is enough.
        if self._facts is None:
            self._facts = await self._ask_world()
        return self._facts

    async def _ask_world(self) -> dict[str, Any]:
        """A world replica's facts; raises ApiError (503)."""
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                return await self._world.facts.remote()
        # Any failure of the replica, whatever its type, means the same to whoever asks.
        except Exception as error:
            message = "no world replica answers: it is starting, try again in a few seconds"
            raise ApiError(503, "not_ready", message, retry_after_s=5) from error
