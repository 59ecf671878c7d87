"""One request to a webhook's URL, within limits of time and size. Redirects and proxies are nothing it knows of."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import httpcore
import httpx

from gamegen.webhooks.connecting import JudgingBackend, Resolve, SystemResolver
from gamegen.webhooks.urls import RefusedUrlError, UrlRules, check_url

_GONE = 410
_LONGEST_WAIT_DIGITS = 6
_MOST_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class PostLimits:
    """What one attempt may cost.

    `attempt_s` is all the time it has, from the name to the last header; `connect_s` what each address of the name
    has of it. Requests have at most `max_body_bytes`. Of an answer no more than its head is read, which httpcore
    holds to 100 KiB. `ca_file` (PEM) replaces the authorities that servers' certificates are checked against.
    """

    attempt_s: float = 15.0
    connect_s: float = 5.0
    max_body_bytes: int = 64 << 10
    ca_file: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("attempt_s", self.attempt_s), ("connect_s", self.connect_s)):
            if value <= 0:
                raise ValueError(f"{name} is {value}: it must be above 0 seconds")
        if self.max_body_bytes < 1024:
            raise ValueError(f"max_body_bytes is {self.max_body_bytes}: it must be at least 1024")


@dataclass(frozen=True)
class Answer:
    """What became of an attempt: an HTTP status, or why there is none.

    `is_final` if no other attempt would end otherwise; `wait_s` is how long the receiver asked to be left alone.
    """

    status: int | None = None
    error: str | None = None
    is_final: bool = False
    wait_s: float = 0.0

    @property
    def is_delivered(self) -> bool:
        """The receiver said that it has it."""
        return self.error is None


class Poster:
    """Sends requests; may be used by many coroutines at once. `resolve` and `network` are replaced by tests alone."""

    def __init__(
        self,
        rules: UrlRules,
        limits: PostLimits,
        resolve: Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._rules, self._limits = rules, limits
        self._backend = JudgingBackend(rules, resolve or SystemResolver(), network or httpcore.AnyIOBackend())
        self._ssl = (
            ssl.create_default_context(cafile=limits.ca_file)
            if limits.ca_file
            else httpx.create_ssl_context()
        )

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Sends JSON; whatever goes wrong is in the answer."""
        if len(body) > self._limits.max_body_bytes:
            most = self._limits.max_body_bytes
            return Answer(error=f"the message has {len(body)} bytes: at most {most} are sent", is_final=True)
        try:
            async with asyncio.timeout(self._limits.attempt_s):
                return await self._send(url, headers, body)
        except TimeoutError:
            return Answer(error=f"no answer within {self._limits.attempt_s:g} s")
        except RefusedUrlError as error:
            return Answer(error=str(error))
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            return Answer(error=_in_words(error))

    async def _send(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
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
            # What follows the status changes nothing: it is not waited for.
            return _judged(response.status, dict(response.headers))


def _judged(status: int, headers: dict[bytes, bytes]) -> Answer:
    if 200 <= status < 300:
        return Answer(status)
    if 300 <= status < 400:
        return Answer(status, f"answered {status}: redirects are not followed, order with the new URL")
    return Answer(status, f"answered {status}", status == _GONE, _asked_wait_s(headers))


def _in_words(error: Exception) -> str:
    """One short line: part of it may be what the receiver sent."""
    words = f"{type(error).__name__}: {error}"[:_MOST_ERROR_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in words)


def _asked_wait_s(headers: dict[bytes, bytes]) -> float:
    """Seconds of a Retry-After header; one that gives a date is taken for none."""
    value = next((value for name, value in headers.items() if name.lower() == b"retry-after"), b"")
    return float(value) if value.isdigit() and len(value) <= _LONGEST_WAIT_DIGITS else 0.0
