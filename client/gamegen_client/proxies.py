"""Proxies of the environment: a server on this machine is reached past them, and errors name the one in between."""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """True for a URL of this machine's loopback interface."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def proxy_words(url: str) -> str:
    """The words " through the proxy ADDRESS of HTTP_PROXY" for a URL that goes through one, else an empty string.

    The address is without a user name and password.
    """
    parts = urlsplit(url)
    if is_loopback(url) or not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return ""
    proxies = urllib.request.getproxies()
    for name in (parts.scheme, "all"):
        if name in proxies:
            proxy = urlsplit(proxies[name] if "://" in proxies[name] else f"http://{proxies[name]}")
            return f" through the proxy {proxy.scheme}://{proxy.netloc.rpartition('@')[2]} of {name.upper()}_PROXY"
    return ""
