"""Proxies of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY): loopback addresses never go through one."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from urllib.parse import urlsplit

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SCHEMES = {"ws": "http", "wss": "https"}


def bypass_loopback() -> None:
    """Extends NO_PROXY by the loopback addresses, for this process and its children."""
    # The lower-case name is the one that counts where both are set, and the one that gRPC reads first.
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    # Without the brackets of IPv6, at which httpx fails.
    hosts = [host.strip(" []") for host in given.split(",") if host.strip()]
    hosts += [host for host in _LOOPBACK if host not in hosts and "*" not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def opener_for(url: str) -> urllib.request.OpenerDirector:
    """What opens a URL with urllib, which does not know IPv6 addresses in NO_PROXY: past proxies on this machine."""
    local = is_loopback(urlsplit(url).hostname or "")
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))


def is_loopback(host: str) -> bool:
    """True for `localhost` and every address of the loopback interface, of IPv6 with or without brackets."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def proxy_words(url: str) -> str:
    """The words "through the proxy ADDRESS of HTTP_PROXY" for a URL that goes through one, else an empty string.

    The address is without a user name and password.
    """
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    if not parts.hostname or is_loopback(parts.hostname) or urllib.request.proxy_bypass(parts.hostname):
        return ""
    proxies = urllib.request.getproxies()
    for name in (scheme, "all"):
        if name in proxies:
            proxy = urlsplit(proxies[name] if "://" in proxies[name] else f"http://{proxies[name]}")
            return f"through the proxy {proxy.scheme}://{proxy.netloc.rpartition('@')[2]} of {name.upper()}_PROXY"
    return ""
