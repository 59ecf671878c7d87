"""HTTP client of webhooks: one request, with limits of time and size, without redirects and proxies."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import httpcore
import httpx

from gamegen.service.webhooks.settings import RequestLimits, UrlRules
from gamegen.service.webhooks.ssrf_guard import Resolve, SsrfGuard, SystemResolver
from gamegen.service.webhooks.urls import RefusedUrlError, check_url

_GONE = 410
_MAX_WAIT_DIGITS = 6
_MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class AttemptResult:
    """Result of an attempt: the HTTP status, and the error if it was not delivered.

    `is_final` if a retry cannot succeed; `wait_s` is the Retry-After of the receiver.
    """

    status: int | None = None
    error: str | None = None
    is_final: bool = False
    wait_s: float = 0.0

    @property
    def is_delivered(self) -> bool:
        """True if the receiver answered with a 2xx status."""
        return self.error is None


class WebhookClient:
    """Sends requests, from any number of coroutines. Only tests replace `resolve` and `network`."""

    def __init__(
        self,
        rules: UrlRules,
        limits: RequestLimits,
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._rules = rules
        self._limits = limits
        self._backend = SsrfGuard(rules, resolve or SystemResolver(), network or httpcore.AnyIOBackend())
        self._ssl = (
            ssl.create_default_context(cafile=limits.ca_file)
            if limits.ca_file
            else httpx.create_ssl_context()
        )

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> AttemptResult:
        """Sends a JSON body; errors are in the result."""
        if len(body) > self._limits.max_body_bytes:
            most = self._limits.max_body_bytes
            return AttemptResult(
                error=f"the message has {len(body)} bytes, the limit is {most}", is_final=True
            )
        try:
            async with asyncio.timeout(self._limits.attempt_s):
                return await self._send(url, headers, body)
        except TimeoutError:
            return AttemptResult(error=f"no answer within {self._limits.attempt_s:g} s")
        except RefusedUrlError as error:
            return AttemptResult(error=str(error))
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            return AttemptResult(error=_message_of(error))

    async def _send(self, url: str, headers: dict[str, str], body: bytes) -> AttemptResult:
        target = check_url(url, self._rules)
        address = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        sent_headers = {
            "host": target.netloc,
            "content-type": "application/json",
            "user-agent": "GameGen-Webhooks/1",
            "connection": "close",
            **headers,
        }
        async with (
            httpcore.AsyncHTTPConnection(
                address.origin, ssl_context=self._ssl, network_backend=self._backend
            ) as connection,
            connection.stream(
                "POST",
                address,
                headers=list(sent_headers.items()),
                content=body,
                extensions={"timeout": {"connect": self._limits.connect_s}},
            ) as response,
        ):
            # Only the status counts: the body is not read.
            return _result_of(response.status, dict(response.headers))


def _result_of(status: int, headers: dict[bytes, bytes]) -> AttemptResult:
    if 200 <= status < 300:
        return AttemptResult(status)
    if 300 <= status < 400:
        return AttemptResult(status, f"answered {status}: redirects are not followed, order with the new URL")
    return AttemptResult(status, f"answered {status}", status == _GONE, _retry_after_s(headers))


def _message_of(error: Exception) -> str:
    """One short printable line, since the receiver may control a part of it."""
    message = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in message)


def _retry_after_s(headers: dict[bytes, bytes]) -> float:
    """Seconds of a Retry-After header, 0 without one or with a date."""
    value = next((value for name, value in headers.items() if name.lower() == b"retry-after"), b"")
    return float(value) if value.isdigit() and len(value) <= _MAX_WAIT_DIGITS else 0.0
