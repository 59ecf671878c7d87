"""Identities of players. Play has no accounts: a user is an IP address, or a name that a reverse proxy sends."""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

_NETWORK_BITS = 64
"""Bits of an IPv6 address that identify a network; each machine chooses the rest as it likes."""


def user_of(request: HTTPConnection, header: str) -> str:
    """The identity of a request's user: the value of `header` if that is set and was sent, else the address.

    Empty for clients on this machine, who share no limit.
    """
    named = request.headers.get(header) if header else None
    if named:
        return f"name {named}"
    return _network(request.client.host) if request.client else ""


def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return "" if address.is_loopback else str(address)
    if address.ipv4_mapped:
        return _network(str(address.ipv4_mapped))
    if address.is_loopback:
        return ""
    return str(ipaddress.IPv6Network((int(address), _NETWORK_BITS), strict=False))
