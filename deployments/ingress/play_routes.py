"""HTTP routes and WebSockets of playable sessions."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, WebSocket
from fastapi.responses import Response
from pydantic import ValidationError

from deployments.errors import PROBLEM_TYPE, ApiError, Problem, describe_problems
from deployments.ingress.base_path import requested_host
from deployments.ingress.direct_server import STREAM_PATH
from deployments.ingress.one_shot import play_once
from deployments.ingress.schemas import (
    NewSession,
    NewVideoPrompt,
    OneShot,
    OneShotFrames,
    SessionCreated,
    SessionList,
    SessionState,
    VideoPromptKept,
)
from deployments.ingress.services import IngressServices, Services
from deployments.ingress.session_start import start_session
from deployments.ingress.sessions_api import state_of
from deployments.observability import play_metrics
from deployments.stream.session_stream import SessionStream
from deployments.stream.socket_connection import CLOSE_ENDED, Connection
from gamegen.sessions.log import VideoPrompt
from gamegen.sessions.log_file import to_json

router = APIRouter(tags=["play"])


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of an operation that may answer with these error statuses."""
    content = {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


@router.post("/v1/sessions", status_code=201, responses=errors(401, 404, 413, 415, 422, 429, 503))
async def create_session(wish: NewSession, request: Request, services: Services) -> SessionCreated:
    """Creates a world, which is played on its stream."""
    return await start_session(wish, request, services)


@router.get("/v1/sessions", responses=errors(422, 503))
async def list_sessions(
    request: Request,
    services: Services,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> SessionList:
    """All worlds, the newest first."""
    return await services.sessions.listed(limit, offset, request.scope["root_path"])


@router.get("/v1/sessions/{session_id}", responses=errors(404, 503))
async def get_session(session_id: str, request: Request, services: Services) -> SessionState:
    """A world's state."""
    state = state_of(await services.sessions.summary(session_id), request.scope["root_path"])
    direct_url = services.direct_server.stream_url(session_id, requested_host(request))
    return state.model_copy(update={"direct_stream_url": direct_url})


@router.get(
    "/v1/sessions/{session_id}/log",
    response_class=Response,
    responses={**errors(404, 503), 200: {"content": {"application/json": {}}}},
)
async def get_session_log(session_id: str, services: Services) -> Response:
    """The log of a world, for `gamegen replay`."""
    record = await services.sessions.get(session_id)
    text = await asyncio.to_thread(lambda: to_json(record.log()))
    return Response(text, media_type="application/json")


@router.post(
    "/v1/sessions/{session_id}/video-prompts",
    status_code=201,
    responses=errors(401, 404, 409, 413, 415, 422, 503),
)
async def upload_video_prompt(session_id: str, upload: NewVideoPrompt, services: Services) -> VideoPromptKept:
    """Uploads a video prompt, which the player can have the world follow."""
    await services.sessions.check_token(session_id, upload.resume_token)
    prompt = VideoPrompt(upload.kind, upload.video)
    num_chunks = await services.uploads.check_video_prompt(prompt, await services.model_facts.get())
    await services.sessions.keep_video_prompt(session_id, prompt)
    return VideoPromptKept(id=prompt.id, chunks=num_chunks)


@router.delete("/v1/sessions/{session_id}", status_code=204, response_class=Response, responses=errors(404))
async def delete_session(session_id: str, services: Services) -> None:
    """Ends a world."""
    await services.sessions.delete(session_id)


@router.post("/api/v1/control", include_in_schema=False)
@router.post("/v1/control", responses=errors(401, 404, 409, 415, 422, 429, 503))
async def control(order: OneShot, services: Services) -> OneShotFrames:
    """Plays a few chunks of a world without a socket."""
    record = await services.sessions.summary(order.session_id)
    return await play_once(record, order, services.play_context)


@router.websocket(STREAM_PATH)
async def stream(socket: WebSocket, session_id: str, services: Services) -> None:
    """Plays a world; `/docs` describes the messages."""
    await socket.accept()
    connection = Connection(socket, services.settings.ingress)
    await _play(session_id, connection, services)


@router.websocket("/ws/stream")
async def begin_and_stream(
    socket: WebSocket,
    services: Services,
    prompt: str = "green forest at noon",
    perspective: str = "first",
    seed: int = 0,
    start: str | None = None,
    gallery_id: str | None = None,
) -> None:
    """Creates a world and plays it on the same socket, without a hello message."""
    await socket.accept()
    connection = Connection(socket, services.settings.ingress)
    try:
        wish = NewSession.model_validate(
            {
                "prompt": prompt,
                "perspective": perspective,
                "seed": seed,
                "start": start,
                "gallery_id": gallery_id,
            }
        )
        session = await start_session(wish, socket, services)
    except (ApiError, ValidationError) as error:
        refusal = error if isinstance(error, ApiError) else _invalid(error)
        play_metrics.REQUESTS_REFUSED.add(tag=refusal.code)
        await connection.send_error("refused", refusal.message, fatal=True)
        await connection.close(CLOSE_ENDED, refusal.message)
        return
    await connection.send_message({"type": "session", **session.model_dump()})
    await _play(session.id, connection, services, is_known=True)


async def _play(
    session_id: str, connection: Connection, services: IngressServices, *, is_known: bool = False
) -> None:
    stream = SessionStream(session_id, connection, services.play_context)
    with services.sessions.playing(stream):
        await stream.run(is_known=is_known)


def _invalid(error: ValidationError) -> ApiError:
    return ApiError(422, "invalid_request", describe_problems(error.errors()))
