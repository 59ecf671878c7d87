"""Addresses that a webhook may be sent to: those of public machines only.

Sources: IANA's registries of special-purpose addresses for IPv4 and IPv6, RFC 6890 and RFC 4291.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_PUBLIC_V6 = IPv6Network("2000::/3")
"""Global unicast addresses of IPv6; mapped, compatible, NAT64, unique local, link-local and multicast addresses lie
outside."""
_REFUSED = [
    (ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "private (shared by customers of a provider)"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's metadata service"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved (documentation)"),
        ("192.31.196.0/24", "reserved (AS112)"),
        ("192.52.193.0/24", "reserved (multicast tunnels)"),
        ("192.88.99.0/24", "reserved (6to4 relays)"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved (AS112)"),
        ("198.18.0.0/15", "reserved (benchmarks)"),
        ("198.51.100.0/24", "reserved (documentation)"),
        ("203.0.113.0/24", "reserved (documentation)"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "an IPv4 address in IPv6"),
        ("::/96", "an IPv4 address in IPv6"),
        ("64:ff9b::/96", "an IPv4 address behind NAT64"),
        ("64:ff9b:1::/48", "an IPv4 address behind NAT64"),
        ("2001::/32", "an IPv4 address behind Teredo"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved (documentation)"),
        ("2002::/16", "an IPv4 address behind 6to4"),
        ("2620:4f:8000::/48", "reserved (AS112)"),
        ("3fff::/20", "reserved (documentation)"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
    )
]


def address_refusal(address: Address, denied_networks: Sequence[str] = ()) -> str | None:
    """Reason for which an address is refused, or None if it is allowed; `denied_networks` are refused as well.

    Every IPv6 address that embeds an IPv4 address is refused: public names do not need them.
    """
    for network, kind in _REFUSED:
        if address in network:
            return kind
    if isinstance(address, IPv6Address) and (address.scope_id or address not in _PUBLIC_V6):
        return "not a public address"
    if any(address in ip_network(network) for network in denied_networks):
        return "in a network that this server denies"
    return None


def parse_address(host: str) -> Address | None:
    """The IP address that a host is, or None if it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
