"""Which addresses and URLs are refused by their spelling."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from gamegen.service.webhooks.addresses import address_refusal
from gamegen.service.webhooks.settings import UrlRules
from gamegen.service.webhooks.urls import RefusedUrlError, check_url

REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.0.9": "loopback",
    "0.0.0.0": "unspecified",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "private (shared by customers of a provider)",
    "169.254.1.1": "link-local",
    "169.254.169.254": "link-local",
    "100.100.100.200": "private (shared by customers of a provider)",
    "168.63.129.16": "a cloud's metadata service",
    "192.0.0.192": "reserved",
    "192.88.99.1": "reserved (6to4 relays)",
    "198.18.0.1": "reserved (benchmarks)",
    "203.0.113.7": "reserved (documentation)",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::7f00:1": "an IPv4 address in IPv6",
    "::ffff:127.0.0.1": "an IPv4 address in IPv6",
    "::ffff:8.8.8.8": "an IPv4 address in IPv6",
    "64:ff9b::7f00:1": "an IPv4 address behind NAT64",
    "64:ff9b:1::a00:1": "an IPv4 address behind NAT64",
    "2002:7f00:1::": "an IPv4 address behind 6to4",
    "2001:0:5ef5:79fd::1": "an IPv4 address behind Teredo",
    "2001:db8::1": "reserved (documentation)",
    "3fff::1": "reserved (documentation)",
    "fc00::1": "private",
    "fd00:ec2::254": "private",
    "fd20:ce::254": "private",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
    "4000::1": "not a public address",
    "2606:4700::1%eth0": "not a public address",
}
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "168.63.129.17", "2606:4700:4700::1111", "2a00:1450:4001::1"]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused_and_called_what_it_is(address: str) -> None:
    assert address_refusal(ip_address(address)) == REFUSED[address]
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(RefusedUrlError):
        check_url(f"https://{host}/hook", UrlRules())


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_called(address: str) -> None:
    assert address_refusal(ip_address(address)) is None
    host = f"[{address}]" if ":" in address else address
    target = check_url(f"https://{host}:8443/hook?a=1", UrlRules())
    assert (target.host, target.port, target.netloc, target.path) == (
        address,
        8443,
        f"{host}:8443",
        "/hook?a=1",
    )


def test_whatever_python_knows_to_be_special_is_refused() -> None:
    numbers = random.Random(6)
    for _ in range(20_000):
        for address in (IPv4Address(numbers.getrandbits(32)), IPv6Address(numbers.getrandbits(128))):
            if not address.is_global or address.is_multicast:
                assert address_refusal(address), address


def test_an_operator_denies_networks_of_their_own() -> None:
    rules = UrlRules(denied_networks=("8.8.8.0/24", "2606:4700::/32"))
    for host in ("8.8.8.8", "[2606:4700::1]"):
        check_url(f"https://{host}/", UrlRules())
        with pytest.raises(RefusedUrlError, match="denies"):
            check_url(f"https://{host}/", rules)
    with pytest.raises(ValueError, match="denied_networks"):
        UrlRules(denied_networks=("8.8.8.8/8",))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example/", "must begin with https://"),
        ("ftp://hooks.example/", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("hooks.example/path", "must begin with https://"),
        ("", "must begin with https://"),
        ("https:///path", "neither a name nor an address"),
        ("https://hooks.example:22/", "port 22 .* use one of 443, 8443"),
        ("https://hooks.example:0/", "port 0 "),
        ("https://hooks.example:99999/", "port 99999 "),
        ("https://hooks.example:http/", "cannot be read"),
        ("https://ada:secret@hooks.example/", "user or password"),
        ("https://hooks.example\\@127.0.0.1/", "backslashes"),
        ("https://hooks.example/\r\nx: y", "control characters"),
        (" https://hooks.example/", "blanks"),
        ("https://hooks.example/#here", "fragment"),
        ("https://localhost/", "this server itself"),
        ("https://LOCALHOST./", "this server itself"),
        ("https://a.localhost/", "this server itself"),
        ("https://127.1/", "neither a name nor an address"),
        ("https://2130706433/", "neither a name nor an address"),
        ("https://0x7f000001/", "neither a name nor an address"),
        ("https://0177.0.0.1/", "cannot be read"),
        ("https://127.0.0.1./", "neither a name nor an address"),
        ("https://%31%32%37.0.0.1/", "neither a name nor an address"),
        ("https://①②⑦.0.0.1/", "cannot be read"),
        ("https://hooks..example/", "neither a name nor an address"),
        ("https://" + "a." * 130 + "example/", "neither a name nor an address"),
        ("https://hooks.example/" + "a" * 2048, "the limit is 2048"),
    ],
)
def test_a_url_that_will_not_do_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(RefusedUrlError, match=reason):
        check_url(url, UrlRules())


def test_a_url_of_another_script_is_called_by_its_ascii_name() -> None:
    target = check_url("https://Exämple.com/ä?ö=1", UrlRules())
    assert target.host == target.netloc == "xn--exmple-cua.com"
    assert target.path == "/%C3%A4?%C3%B6=1"


def test_development_may_allow_more() -> None:
    rules = UrlRules(allow_http=True, allow_private_addresses=True, ports=())
    for url in ("http://localhost:8000/", "http://127.0.0.1/", "https://[::1]:9/", "http://10.0.0.1/"):
        check_url(url, rules)
    assert check_url("http://localhost/", rules).port == 80
