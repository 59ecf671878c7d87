"""What a webhook's URL must be like; nothing is asked of the network here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_network

import httpx

from gamegen.webhooks.addresses import literal, refusal

MAX_URL_CHARACTERS = 2048
_DEFAULT_PORTS = {"https": 443, "http": 80}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
# What a resolver of C takes for an address although it is not written as one: 127.1, 0x7f000001, 2130706433.
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")


class RefusedUrlError(ValueError):
    """A URL that no webhook is sent to; the message is for whoever gave it."""


@dataclass(frozen=True)
class UrlRules:
    """Where webhooks may go.

    `ports` are all that are allowed, none for any. `denied_networks` (like 203.0.113.0/24) are refused besides all that
    are not public: an operator's own public addresses, or the prefix of an own NAT64. `allow_http` and
    `allow_private_addresses` are for development: with them callers reach what this server reaches.
    """

    allow_http: bool = False
    allow_private_addresses: bool = False
    ports: tuple[int, ...] = (443, 8443)
    denied_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for port in self.ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"ports: {port} is no port: they go from 1 to 65535")
        for network in self.denied_networks:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"denied_networks: {error}") from error


@dataclass(frozen=True)
class Target:
    """A URL in its parts: `host` is ASCII, a name or an address; `netloc` is what the Host header says."""

    scheme: str
    host: str
    port: int
    netloc: str
    path: str


def check_url(url: str, rules: UrlRules) -> Target:
    """Takes a webhook's URL apart; raises RefusedUrlError if by its spelling alone nothing may be sent there.

    Names are not resolved: what they stand for is judged when something is sent.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise RefusedUrlError(
            f"the webhook URL has {len(url)} characters: at most {MAX_URL_CHARACTERS} are allowed"
        )
    if _UNSAFE.search(url):
        raise RefusedUrlError(f"the webhook URL {url!r} has blanks, control characters or backslashes")
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise RefusedUrlError(f"the webhook URL {url!r} cannot be read: {error}") from error
    if parts.userinfo:
        raise RefusedUrlError("the webhook URL has a user or password: leave them out, requests are signed")
    if parts.fragment:
        raise RefusedUrlError("the webhook URL has a fragment (#), which is never sent: leave it out")
    _check_scheme(parts.scheme, rules)
    port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    if not 1 <= port <= 65535 or (rules.ports and port not in rules.ports):
        allowed = ", ".join(map(str, rules.ports)) or "1 to 65535"
        raise RefusedUrlError(f"port {port} of the webhook URL is not allowed: use one of {allowed}")
    host = parts.raw_host.decode()
    _check_host(host, rules)
    return Target(parts.scheme, host, port, parts.netloc.decode(), parts.raw_path.decode())


def _check_scheme(scheme: str, rules: UrlRules) -> None:
    allowed = ("https", "http") if rules.allow_http else ("https",)
    if scheme not in allowed:
        raise RefusedUrlError(
            f"the webhook URL begins with {scheme!r}: it must begin with {' or '.join(allowed)}://"
        )


def _check_host(host: str, rules: UrlRules) -> None:
    address = literal(host)
    if address is not None:
        kind = None if rules.allow_private_addresses else refusal(address, rules.denied_networks)
        if kind:
            raise RefusedUrlError(f"{host} of the webhook URL is {kind}: only public addresses are called")
        return
    top_label = host.rstrip(".").rsplit(".", 1)[-1]
    if len(host) > 253 or not _NAME.fullmatch(host) or _NUMBER.fullmatch(top_label):
        raise RefusedUrlError(f"{host!r} of the webhook URL is neither a name nor an address")
    if top_label == "localhost" and not rules.allow_private_addresses:
        raise RefusedUrlError(f"{host} of the webhook URL is this server itself: only others are called")
