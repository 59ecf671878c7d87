"""Who begins a session. There are no accounts: a user is an address, or whom a reverse proxy names."""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

_NETWORK_BITS = 64
"""Of an IPv6 address: the other half each machine chooses as it likes."""


def user_of(request: HTTPConnection, header: str) -> str:
    """What tells the users of this server from each other; empty for those on its own machine.

    That is the value of `header`, where one is set and came, or else the address.
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
