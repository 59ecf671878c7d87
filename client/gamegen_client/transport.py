"""HTTP requests with retries, under one X-Request-ID, so that an order is never placed twice."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import httpx

from gamegen_client.errors import UnavailableError, error_of, retry_after
from gamegen_client.proxies import is_loopback, proxy_words

_AGAIN = frozenset({429, 502, 503, 504})
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 30.0


class Backoff:
    """Exponential backoff with jitter; a server's Retry-After takes precedence."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._delay_s = _FIRST_DELAY_S

    def wait(self, told_s: float | None = None) -> None:
        """Sleeps before the next try."""
        delay_s = self._delay_s if told_s is None else min(told_s, _LONGEST_DELAY_S)
        self._sleep(delay_s * random.uniform(1.0, 1.25))
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)

    def reset(self) -> None:
        """Resets the delay after a success."""
        self._delay_s = _FIRST_DELAY_S


class Transport:
    """HTTP connection to one server; retries a request `max_retries` times while the server is unreachable or busy.

    A server on this machine is reached past the proxies of the environment. Raises UnavailableError if a package for
    the kind of proxy is missing.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout_s: float, max_retries: int) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self.http = httpx.Client(
                base_url=base_url, headers=headers, timeout=timeout_s, trust_env=not is_loopback(base_url)
            )
        except ImportError as error:
            # Of a SOCKS proxy; httpx says which package it lacks.
            raise UnavailableError(f"{base_url} cannot be reached{proxy_words(base_url)}: {error}") from error
        self._max_retries = max_retries

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request with retries and reads the answer's body; raises ProblemError or UnavailableError."""
        headers = {"X-Request-ID": uuid.uuid4().hex, **options.pop("headers", {})}
        backoff = Backoff()
        for left in range(self._max_retries, -1, -1):
            try:
                response = self.http.request(method, path, headers=headers, **options)
            except httpx.TransportError as error:
                if not left:
                    raise unreachable(self.http.base_url, error) from error
                backoff.wait()
                continue
            if response.status_code < 400:
                return response
            if not left or response.status_code not in _AGAIN:
                raise error_of(response)
            backoff.wait(retry_after(response))
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def streamed(self, path: str, headers: dict[str, str], **options: Any) -> Iterator[httpx.Response]:
        """Sends a request once, leaving the answer's body to be read; raises ProblemError or httpx's errors."""
        with self.http.stream("GET", path, headers=headers, **options) as response:
            if response.status_code >= 400:
                response.read()
                raise error_of(response)
            yield response


def unreachable(address: Any, error: Exception) -> UnavailableError:
    """The error for a broken connection."""
    reason = str(error) or type(error).__name__
    proxy = proxy_words(str(address))
    advice = "add its host to NO_PROXY if it needs none" if proxy else "is the server running there?"
    return UnavailableError(f"{address} cannot be reached{proxy} ({reason}): {advice}")
