"""The start of a session: its request is checked against the model and becomes a record in the session store."""

from __future__ import annotations

import dataclasses

from starlette.requests import HTTPConnection

from deployments.errors import ApiError
from deployments.ingress.base_path import requested_host
from deployments.ingress.client_identity import user_of
from deployments.ingress.schemas import NewSession, SessionCreated
from deployments.ingress.services import IngressServices
from deployments.sessions.session_record import SessionRecord
from deployments.stream.session_stream import address
from gamegen.sessions.log import WorldSpec


async def start_session(
    wish: NewSession, connection: HTTPConnection, services: IngressServices
) -> SessionCreated:
    """A new session for the user of a connection; raises ApiError (401, 404, 413, 422, 429, 503)."""
    record, token = await _create(wish, connection, services)
    direct_url = services.direct_server.stream_url(record.id, requested_host(connection))
    return SessionCreated.model_validate(
        {
            **address(record, connection.scope["root_path"]),
            "direct_stream_url": direct_url,
            "resume_token": token,
            "start": dataclasses.asdict(record.start),
        }
    )


async def _create(
    wish: NewSession, connection: HTTPConnection, services: IngressServices
) -> tuple[SessionRecord, str]:
    user = user_of(connection, services.settings.ingress.user_header)
    if wish.branch:
        return await services.sessions.create_branch(wish.branch, user)
    assert wish.prompt is not None
    prompt = await services.prompt_encoder.encode(wish.prompt, wish.perspective)
    facts = await services.model_facts.get()
    if wish.model not in (None, facts["model"]):
        message = f"model: {wish.model!r} is not served here, {facts['model']!r} is"
        raise ApiError(422, "unknown_model", message)
    width, height = wish.resolution.size if wish.resolution else (facts["width"], facts["height"])
    first_frames, first_chunks = await services.starts.first_frames(wish, prompt, facts)
    spec = WorldSpec(
        model=facts["model"],
        prompt=wish.prompt,
        perspective=wish.perspective,
        seed=wish.seed,
        width=width,
        height=height,
        first_frames=first_frames,
    )
    return await services.sessions.create(spec, first_chunks, user)
