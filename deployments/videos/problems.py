"""Errors of the clip service: `application/problem+json` (RFC 9457) with a stable code."""

from __future__ import annotations

import logging
import re
import uuid
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
from deployments.metrics import REQUESTS_REFUSED
from deployments.videos.schemas import Problem
from gamegen.database.patience import DatabaseAwayError
from gamegen.storage.objects import StorageError

logger = logging.getLogger("ray.serve")

PROBLEM_TYPE = "application/problem+json"
REQUEST_ID = "X-Request-ID"
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_RETRY_S = 5
_ADDRESSES = ("/v1/videos", "/v1/webhooks", "/v1/credits", "/api/v1/generate")
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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an operation may answer when it does not succeed, for its description."""
    content = {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in statuses}


def problem_response(error: ApiError) -> JSONResponse:
    """The answer to an error, which is counted."""
    REQUESTS_REFUSED.add(tag=error.code)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    body = Problem(
        type=f"/docs#{error.code}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.message,
        code=error.code,
        error={"code": error.code, "message": error.message},
    )
    return JSONResponse(body.model_dump(), error.status, headers, PROBLEM_TYPE)


def refusal(scope: Scope, error: ApiError) -> Response:
    """The answer to an error that is found before a route is: a problem at the clip service's addresses."""
    is_ours = scope.get("path", "").startswith(_ADDRESSES)
    return problem_response(error) if is_ours else error_response(error)


def request_id_of(request: Request) -> str | None:
    """The caller's name for a request; raises ApiError (400) for one that is no name."""
    told = request.headers.get(REQUEST_ID)
    if told is not None and not _REQUEST_ID.fullmatch(told):
        message = f"{REQUEST_ID}: {len(told)} characters: use 1 to 128 printable ASCII ones without spaces"
        raise ApiError(400, "invalid_request_id", message)
    return told


class ProblemRoute(APIRoute):
    """A route whose errors are problems."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            # Everything that is expected; the rest is the application's to log and to answer.
            except (ApiError, *_EXPECTED) as error:
                return problem_response(error if isinstance(error, ApiError) else _api_error(error))

        return answer


class EchoingRoute(ProblemRoute):
    """The same where nothing else gives answers their request's id; Ray Serve does."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            response = await handle(request)
            told = request.headers.get(REQUEST_ID, "")
            response.headers[REQUEST_ID] = told if _REQUEST_ID.fullmatch(told) else uuid.uuid4().hex
            return response

        return answer


_EXPECTED = (
    RequestValidationError,
    HTTPException,
    ClientDisconnect,
    DatabaseAwayError,
    DBAPIError,
    PoolTimeoutError,
    StorageError,
    ConnectionError,
)
NOT_THERE = (
    DatabaseAwayError,
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    StorageError,
    ConnectionError,
)


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
    if isinstance(error, NOT_THERE) or getattr(error, "connection_invalidated", False):
        logger.warning("the clip service's database or store cannot be reached: %s", type(error).__name__)
        message = "videos cannot be reached just now: try again in a few seconds"
        return ApiError(503, "not_ready", message, retry_after_s=_RETRY_S)
    raise error
