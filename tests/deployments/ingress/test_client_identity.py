"""Who begins a session, as a request tells."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from deployments.ingress.client_identity import user_of


def user(host: str | None, header: str = "", **headers: str) -> str:
    client = None if host is None else (host, 1234)
    packed = [(name.encode(), value.encode()) for name, value in headers.items()]
    return user_of(HTTPConnection({"type": "http", "client": client, "headers": packed}), header)


@pytest.mark.parametrize(
    "host, network",
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
        *((mine, "") for mine in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", None)),
    ],
)
def test_a_user_is_an_address_and_this_machine_is_none(host, network):
    assert user(host) == network


def test_a_header_is_believed_only_where_it_is_set():
    assert user("203.0.113.5", who="ann") == "203.0.113.5"
    assert user("203.0.113.5", "Who", who="ann") == user("127.0.0.1", "Who", who="ann") == "name ann"
    assert user("203.0.113.5", "Who") == user("203.0.113.5", "Who", who="") == "203.0.113.5"
    # Nobody can pass for an address by a name.
    assert user("127.0.0.1", "Who", who="203.0.113.5") != "203.0.113.5"
