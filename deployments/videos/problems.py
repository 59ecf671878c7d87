"""Errors of the clip service: `application/problem+json` (RFC 9457) with a stable code."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from deployments.errors import ApiError, describe_validation_error, error_response
from deployments.observability.play_metrics import REQUESTS_REFUSED
from deployments.videos.schemas import Problem
from gamegen.service.database.retrying import DatabaseAwayError
from gamegen.storage.objects import StorageError

logger = logging.getLogger("ray.serve")

PROBLEM_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID_PATTERN = re.compile(r"[!-~]{1,128}")
_RETRY_AFTER_S = 5
_PATH_PREFIXES = ("/v1/videos", "/v1/webhooks", "/v1/credits", "/api/v1/generate")
_DESCRIPTIONS = {
    400: "the request cannot be read",
    401: "no API key, or one that is not known",
    402: "not enough credits",
    404: "no such video, or its files were removed",
    409: "the video is not in a state for it, or the X-Request-ID was used for another body",
    413: "the body or a file in it is too large",
    416: "the range begins behind the end",
    422: "a field is wrong, or they do not go together",
    429: "too many requests a second: see Retry-After",
    451: "the prompt or the frames may not be shown",
    503: "full or not ready: see Retry-After",
}

UNAVAILABLE_ERRORS = (
    DatabaseAwayError,
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    StorageError,
    ConnectionError,
)
"""Errors of a database or object store that cannot be reached."""
_ANSWERED_ERRORS = (
    RequestValidationError,
    HTTPException,
    ClientDisconnect,
    DBAPIError,
    *UNAVAILABLE_ERRORS,
)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of an operation that may answer with these error statuses."""
    content = {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in statuses}


def problem_response(scope: Scope, error: ApiError) -> JSONResponse:
    """The problem response to an error of a request, which is counted."""
    REQUESTS_REFUSED.add(tag=error.code)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    body = Problem(
        type=f"{scope['root_path']}/docs#{error.code}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.message,
        code=error.code,
        error={"code": error.code, "message": error.message},
    )
    return JSONResponse(body.model_dump(), status_code=error.status, headers=headers, media_type=PROBLEM_TYPE)


def unrouted_response(scope: Scope, error: ApiError) -> Response:
    """The response to an error found before routing: a problem for the clip service's paths."""
    is_video_path = scope["path"].removeprefix(scope["root_path"]).startswith(_PATH_PREFIXES)
    return problem_response(scope, error) if is_video_path else error_response(error)


def request_id_of(request: Request) -> str | None:
    """The X-Request-ID that a client sent, if any; raises ApiError (400) for a malformed one."""
    request_id = request.headers.get(REQUEST_ID_HEADER)
    if request_id is not None and not REQUEST_ID_PATTERN.fullmatch(request_id):
        message = f"{REQUEST_ID_HEADER}: {len(request_id)} characters: use 1 to 128 printable ASCII ones without spaces"
        raise ApiError(400, "invalid_request_id", message)
    return request_id


class ProblemRoute(APIRoute):
    """A route that answers errors with problems."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The route's handler; an unexpected error is left to the application."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except (ApiError, *_ANSWERED_ERRORS) as error:
                known = error if isinstance(error, ApiError) else _api_error(error)
                return problem_response(request.scope, known)

        return answer


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, RequestValidationError):
        is_json = all(problem["type"] != "json_invalid" for problem in error.errors())
        status, code = (422, "invalid_request") if is_json else (400, "invalid_json")
        return ApiError(status, code, describe_validation_error(error))
    if isinstance(error, HTTPException):
        code = "body_too_large" if error.status_code == 413 else "http_error"
        return ApiError(error.status_code, code, str(error.detail))
    if isinstance(error, ClientDisconnect):
        return ApiError(400, "incomplete_body", "the connection ended before the body did: send it again")
    if isinstance(error, UNAVAILABLE_ERRORS) or getattr(error, "connection_invalidated", False):
        logger.warning("the clip service's database or store cannot be reached: %s", type(error).__name__)
        message = "videos cannot be reached just now: try again in a few seconds"
        return ApiError(503, "not_ready", message, retry_after_s=_RETRY_AFTER_S)
    raise error
