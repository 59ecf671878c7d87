"""Guard against server-side request forgery: a name is resolved once, and only checked addresses are connected to.

A name that is checked and then resolved again can have another address the second time (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import httpcore

from gamegen.service.webhooks.addresses import Address, address_refusal, parse_address
from gamegen.service.webhooks.settings import UrlRules
from gamegen.service.webhooks.urls import RefusedUrlError

logger = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Resolves a name and port to addresses; raises OSError if there are none."""
_MAX_ADDRESSES = 4
# More threads than one account can use at a time, so that its slow names cannot take all of them.
_RESOLVING_THREADS = 32


class SystemResolver:
    """The system's resolver, in threads of its own, so that slow names delay no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVING_THREADS, thread_name_prefix="webhook-names")

    async def __call__(self, host: str, port: int) -> list[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class SsrfGuard(httpcore.AsyncNetworkBackend):
    """Network backend of httpcore that connects to public addresses only; TLS still verifies the name.

    A name with one refused address is refused, whatever its other addresses.
    """

    def __init__(self, rules: UrlRules, resolve: Resolve, inner: httpcore.AsyncNetworkBackend) -> None:
        self._rules = rules
        self._resolve = resolve
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to the first address of a name that answers; raises RefusedUrlError or httpcore's errors.

        Each address has `timeout` seconds.
        """
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in (await self._checked_addresses(host, port))[:_MAX_ADDRESSES]:
            try:
                return await self._inner.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _checked_addresses(self, host: str, port: int) -> list[Address]:
        address = parse_address(host)
        if address is not None:
            addresses = [address]
        else:
            try:
                found = [parse_address(text) for text in await self._resolve(host, port)]
            except (OSError, UnicodeError) as error:
                raise httpcore.ConnectError(f"{host} cannot be resolved") from error
            addresses = [resolved for resolved in found if resolved is not None]
        if self._rules.allow_private_addresses:
            return addresses
        for address in addresses:
            kind = address_refusal(address, self._rules.denied_networks)
            if kind:
                # The caller does not learn the address, which may be one of a private network.
                logger.warning("a webhook to %s was refused: its address is %s, %s", host, address, kind)
                raise RefusedUrlError(f"{host} has an address that is not public: use a public host")
        return addresses
