"""Errors of the clip service: their descriptions, and what its database and object store may raise."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.requests import ClientDisconnect

from deployments.errors import (
    PROBLEM_TYPE,
    ApiError,
    Problem,
    describe_validation_error,
    problem_response,
)
from gamegen.service.database.retrying import DatabaseAwayError
from gamegen.storage.objects import StorageError

logger = logging.getLogger("ray.serve")

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID_PATTERN = re.compile(r"[!-~]{1,128}")
_RETRY_AFTER_S = 5
_DESCRIPTIONS = {
    400: "the request cannot be read",
    401: "no API key, or one that is not known",
    402: "not enough credits",
    404: "no such video, or its files were removed",
    409: "the video is not in a state for it, or the X-Request-ID was used for another body",
    413: "the body or a file in it is too large",
    415: "the body is of a type that is not read here",
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
    ClientDisconnect,
    DBAPIError,
    *UNAVAILABLE_ERRORS,
)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of an operation that may answer with these error statuses."""
    content = {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in statuses}


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
    if isinstance(error, ClientDisconnect):
        return ApiError(400, "incomplete_body", "the connection ended before the body did: send it again")
    if isinstance(error, UNAVAILABLE_ERRORS) or getattr(error, "connection_invalidated", False):
        logger.warning("the clip service's database or store cannot be reached: %s", type(error).__name__)
        message = "videos cannot be reached just now: try again in a few seconds"
        return ApiError(503, "not_ready", message, retry_after_s=_RETRY_AFTER_S)
    raise error
