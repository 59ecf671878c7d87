"""HTTP errors: `application/problem+json` (RFC 9457) with a stable code and a message that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from deployments.observability.logs import server_logs
from deployments.observability.play_metrics import REQUESTS_REFUSED

PROBLEM_TYPE = "application/problem+json"
_LONGEST_MESSAGE = 400
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Problem(BaseModel):
    """RFC 9457: the body of every 4xx and 5xx answer, as `application/problem+json`.

    `error` is the code and the sentence again, where OpenAI's clients look for them.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    error: dict[str, str]


class ApiError(Exception):
    """An error that is answered as a `Problem`; `retry_after_s` becomes a Retry-After header."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


def user_full(error: Exception) -> ApiError:
    """The error (429) of a user with too many sessions; a place is free some seconds after a socket closed."""
    return ApiError(429, "too_many_sessions_of_user", str(error), retry_after_s=10)


def problem_response(scope: Scope, error: ApiError) -> JSONResponse:
    """The response to an error of a request, which is counted."""
    REQUESTS_REFUSED.add(tag=error.code)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    body = Problem(
        type=f"{_base_path(scope)}/docs#{error.code}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.message,
        code=error.code,
        error={"code": error.code, "message": error.message},
    )
    return JSONResponse(body.model_dump(), status_code=error.status, headers=headers, media_type=PROBLEM_TYPE)


def shortened(message: str) -> str:
    """A message of at most about 400 characters, whatever it quotes of a request."""
    half = _LONGEST_MESSAGE // 2
    return message if len(message) <= 2 * half else f"{message[:half]} ... {message[-half:]}"


def describe_validation_error(error: RequestValidationError) -> str:
    """A message with one clause for each wrong field of a request: its name and the problem."""
    return describe_problems(error.errors())


def describe_problems(problems: Sequence[Any]) -> str:
    """A message for a validator's list of problems, with one clause for each field."""
    sentences = []
    for problem in problems:
        if problem["type"] == "json_invalid":
            return f"the body is not valid JSON ({problem.get('ctx', {}).get('error', 'syntax error')})"
        place = ".".join(str(part) for part in problem["loc"] if part != "body") or "body"
        message = problem["msg"].removeprefix("Value error, ")
        sentences.append(f"{place}: {message[:1].lower()}{message[1:]}")
    return shortened("; ".join(sentences))


def internal_error_words() -> str:
    """The message of an error that nobody foresaw: where the server's log is."""
    logs = server_logs()
    place = f"in {logs / 'serve'}" if logs else "on its terminal"
    return f"internal server error: try again, and see the server's log {place} if it keeps failing"


def install_error_handlers(api: FastAPI) -> None:
    """Has an application answer all errors with `problem_response`."""

    @api.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> JSONResponse:
        return problem_response(request.scope, error)

    @api.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        message = describe_validation_error(error)
        return problem_response(request.scope, ApiError(422, "invalid_request", message))

    @api.exception_handler(Exception)
    async def on_unexpected_error(request: Request, _error: Exception) -> JSONResponse:
        # The traceback goes to the log; a client could do nothing with it.
        return problem_response(request.scope, ApiError(500, "internal_error", internal_error_words()))

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        path = shortened(request.url.path)
        if error.status_code == 404:
            message = f"no such path: {path}: see {_base_path(request.scope)}/docs for the paths"
            return problem_response(request.scope, ApiError(404, "not_found", message))
        if error.status_code == 405:
            allowed = ", ".join(_allowed_methods(request)) or "GET, HEAD"
            message = f"{request.method} is no method of {path}: use {allowed}"
            response = problem_response(request.scope, ApiError(405, "method_not_allowed", message))
            response.headers["Allow"] = allowed
            return response
        code = "body_too_large" if error.status_code == 413 else "http_error"
        return problem_response(request.scope, ApiError(error.status_code, code, str(error.detail)))


def _base_path(scope: Scope) -> str:
    base_path: str = scope.get("root_path", "")
    return base_path


def _allowed_methods(request: Request) -> list[str]:
    # Routes of one path have a method each.
    def is_allowed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)

    return [method for method in _METHODS if is_allowed(method)]
