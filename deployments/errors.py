"""HTTP errors: a status, a stable code and a message that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deployments.observability.logs import server_logs
from deployments.observability.play_metrics import REQUESTS_REFUSED

_LONGEST_MESSAGE = 400


class ApiError(Exception):
    """An error that is answered as `{"error": {"code", "message"}}`; `retry_after_s` becomes a Retry-After header."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


def user_full(error: Exception) -> ApiError:
    """The error (429) of a user with too many sessions; a place is free some seconds after a socket closed."""
    return ApiError(429, "too_many_sessions_of_user", str(error), retry_after_s=10)


def error_response(error: ApiError) -> JSONResponse:
    """The JSON response to an error, which is counted."""
    REQUESTS_REFUSED.add(tag=error.code)
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else None
    body = {"error": {"code": error.code, "message": error.message}}
    return JSONResponse(body, status_code=error.status, headers=headers)


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
    """Has an application answer all errors with `error_response`."""

    @api.exception_handler(ApiError)
    async def on_api_error(_request: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @api.exception_handler(RequestValidationError)
    async def on_validation_error(_request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(ApiError(422, "invalid_request", describe_validation_error(error)))

    @api.exception_handler(Exception)
    async def on_unexpected_error(_request: Request, _error: Exception) -> JSONResponse:
        # The traceback goes to the log; a client could do nothing with it.
        return error_response(ApiError(500, "internal_error", internal_error_words()))

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            message = f"no such path: {request.url.path}: see /docs for the paths"
            return error_response(ApiError(404, "not_found", message))
        code = "body_too_large" if error.status_code == 413 else "http_error"
        return error_response(ApiError(error.status_code, code, str(error.detail)))
