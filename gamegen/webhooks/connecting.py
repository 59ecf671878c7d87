"""Connections to addresses that were judged: a name is resolved once, and what was judged is what is called.

A name that is judged and then resolved again can stand for another address the second time (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import httpcore

from gamegen.webhooks.addresses import Address, literal, refusal
from gamegen.webhooks.urls import RefusedUrlError, UrlRules

logger = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a name and port; raises OSError if there are none."""
_MOST_ADDRESSES = 4
# Enough that one account's names, of which few are resolved at a time, do not take all of them.
_RESOLVING_THREADS = 32


class SystemResolver:
    """Resolves as the system does, in threads of its own: names that nobody answers for hold up no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVING_THREADS, thread_name_prefix="webhook-names")

    async def __call__(self, host: str, port: int) -> list[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class JudgingBackend(httpcore.AsyncNetworkBackend):
    """Opens TCP connections for httpcore, to public addresses only; TLS above them still asks for the name.

    One address that may not be reached refuses the whole name, whatever else it stands for.
    """

    def __init__(self, rules: UrlRules, resolve: Resolve, inner: httpcore.AsyncNetworkBackend) -> None:
        self._rules, self._resolve, self._inner = rules, resolve, inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Tries a name's addresses in turn, `timeout` seconds each; raises RefusedUrlError or httpcore's errors."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in (await self._judged(host, port))[:_MOST_ADDRESSES]:
            try:
                return await self._inner.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _judged(self, host: str, port: int) -> list[Address]:
        spelled_out = literal(host)
        if spelled_out is not None:
            addresses = [spelled_out]
        else:
            try:
                found = [literal(text) for text in await self._resolve(host, port)]
            except (OSError, UnicodeError) as error:
                raise httpcore.ConnectError(f"{host} cannot be resolved") from error
            addresses = [address for address in found if address is not None]
        if self._rules.allow_private_addresses:
            return addresses
        for address in addresses:
            kind = refusal(address, self._rules.denied_networks)
            if kind:
                # The caller is not told which address: names of a private network are none of theirs.
                logger.warning("a webhook to %s was refused: it stands for %s, %s", host, address, kind)
                raise RefusedUrlError(f"{host} stands for an address that is not public: it is not called")
        return addresses
