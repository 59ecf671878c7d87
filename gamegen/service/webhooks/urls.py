"""Syntax and rules of a webhook's URL; no network access."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

from gamegen.service.webhooks.addresses import address_refusal, parse_address
from gamegen.service.webhooks.settings import UrlRules

MAX_URL_CHARACTERS = 2048
_DEFAULT_PORTS = {"https": 443, "http": 80}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
# The C resolver reads these as addresses: 127.1, 0x7f000001, 2130706433.
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")


class RefusedUrlError(ValueError):
    """A URL that webhooks are not sent to; the message is for the customer."""


@dataclass(frozen=True)
class Target:
    """Parts of a URL: `host` is an ASCII name or an address, `netloc` the value of the Host header."""

    scheme: str
    host: str
    port: int
    netloc: str
    path: str


def check_url(url: str, rules: UrlRules) -> Target:
    """Parses a webhook's URL; raises RefusedUrlError if the rules forbid it.

    Names are not resolved: their addresses are checked at each connection.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise RefusedUrlError(f"the webhook URL has {len(url)} characters, the limit is {MAX_URL_CHARACTERS}")
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
    address = parse_address(host)
    if address is not None:
        kind = None if rules.allow_private_addresses else address_refusal(address, rules.denied_networks)
        if kind:
            raise RefusedUrlError(f"{host} of the webhook URL is {kind}: only public addresses are called")
        return
    top_label = host.rstrip(".").rsplit(".", 1)[-1]
    if len(host) > 253 or not _NAME.fullmatch(host) or _NUMBER.fullmatch(top_label):
        raise RefusedUrlError(f"{host!r} of the webhook URL is neither a name nor an address")
    if top_label == "localhost" and not rules.allow_private_addresses:
        raise RefusedUrlError(f"{host} of the webhook URL is this server itself: only others are called")
