"""Errors of the client, one class for each kind of answer.

GameGenError
  + UnavailableError             the server cannot be reached or stays busy
  + DamagedFileError             a download differs from the server's file
  + ProblemError                 the server refused
      + AuthenticationError      401
      + InsufficientCreditsError 402
      + NotFoundError            404
      + ConflictError            409
      + TooLargeError            413
      + InvalidRequestError      400, 422
      + RateLimitError           429
      + BlockedError             451
"""

from __future__ import annotations

from typing import Any

import httpx


class GameGenError(Exception):
    """Base class of the client's errors."""


class UnavailableError(GameGenError):
    """The server cannot be reached, or could not answer after every retry."""


class DamagedFileError(GameGenError):
    """A downloaded file differs from the server's: download it again."""


class ProblemError(GameGenError):
    """The server refused; `code` is stable, the message says what to do."""

    def __init__(self, status: int, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class AuthenticationError(ProblemError):
    """401: no API key, or one that is not known."""


class InsufficientCreditsError(ProblemError):
    """402: the account cannot pay for it."""


class NotFoundError(ProblemError):
    """404: no such video, or its files were removed."""


class ConflictError(ProblemError):
    """409: the video is not in a state for it, or the request's id was used for another body."""


class TooLargeError(ProblemError):
    """413: the body or a file in it is too large."""


class InvalidRequestError(ProblemError):
    """400 or 422: a field is wrong."""


class RateLimitError(ProblemError):
    """429: too many requests a second."""


class BlockedError(ProblemError):
    """451: the prompt or the frames may not be shown."""


_BY_STATUS: dict[int, type[ProblemError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    402: InsufficientCreditsError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidRequestError,
    429: RateLimitError,
    451: BlockedError,
}


def error_of(response: httpx.Response) -> ProblemError:
    """The error for an answer of 400 or more, whose body has been read."""
    try:
        body: Any = response.json()
    except ValueError:
        body = {}
    problem = body if isinstance(body, dict) else {}
    kind = _BY_STATUS.get(response.status_code, ProblemError)
    detail = str(problem.get("detail") or f"the server answers {response.status_code}")
    return kind(response.status_code, str(problem.get("code") or "http_error"), detail, retry_after(response))


def retry_after(response: httpx.Response) -> float | None:
    """Seconds of a Retry-After header; None without one in seconds."""
    told = response.headers.get("retry-after", "")
    return float(told) if told.isdigit() else None
