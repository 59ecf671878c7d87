"""A pooler of PostgreSQL connections in transaction mode, as PgBouncer was before version 1.21.

What a session keeps on the server (prepared statements, LISTEN, SET, session locks) stays with whichever connection ran
it, and a client's next transaction may get another.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import URL, make_url

_STARTUP, _CANCEL = 196608, 80877102
_ENCRYPTION_REQUESTS = (80877103, 80877104)
_NO_TRANSACTION = b"I"
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class TransactionPooler:
    """Passes transactions of any number of clients on to `size` connections of a server at a socket file."""

    def __init__(self, server: URL, size: int) -> None:
        self._server = server
        self._size = size
        self._free: asyncio.Queue[_Streams] = asyncio.Queue()
        self._parameters = b""

    async def serve(self, is_ready: threading.Event) -> None:
        """Serves at `port` of this machine until it is cancelled."""
        for _ in range(self._size):
            self._free.put_nowait(await self._connected())
        async with await asyncio.start_server(self._client, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            is_ready.set()
            await server.serve_forever()

    async def _connected(self) -> _Streams:
        reader, writer = await asyncio.open_unix_connection(f"{self._server.query['host']}/.s.PGSQL.5432")
        names = f"user\0{self._server.username}\0database\0{self._server.database}\0client_encoding\0UTF8\0\0"
        body = struct.pack("!I", _STARTUP) + names.encode()
        writer.write(struct.pack("!I", len(body) + 4) + body)
        parameters = b""
        while (message := await _message(reader))[:1] != b"Z":
            assert message[:1] != b"E", message
            parameters += message if message[:1] == b"S" else b""
        self._parameters = parameters
        return reader, writer

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            if await self._is_started(reader, writer):
                while (message := await _message(reader))[:1] != b"X":
                    await self._transaction(message, reader, writer)
        writer.close()

    async def _is_started(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            (code,) = struct.unpack("!I", (await reader.readexactly(length - 4))[:4])
            if code == _CANCEL:
                return False
            if code == _STARTUP:
                break
            assert code in _ENCRYPTION_REQUESTS
            writer.write(b"N")
        key = b"K" + struct.pack("!III", 12, 1, 1)
        writer.write(b"R" + struct.pack("!II", 8, 0) + self._parameters + key + b"Z\0\0\0\5I")
        return True

    async def _transaction(
        self, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Passes messages on, the first of which is there already, until the server is in no transaction."""
        from_server, to_server = server = await self._free.get()
        state = b""
        try:
            while state != _NO_TRANSACTION:
                to_server.write(message)
                if message[:1] in b"QS":
                    while (answer := await _message(from_server))[:1] != b"Z":
                        writer.write(answer)
                    writer.write(answer)
                    state = answer[5:6]
                if state != _NO_TRANSACTION:
                    message = await _message(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            to_server.close()
            server = await self._connected()
            raise
        finally:
            self._free.put_nowait(server)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


@contextmanager
def pooled(server: str, size: int = 2) -> Iterator[str]:
    """Runs a pooler before the database at a URL; yields the URL of the database behind it."""
    url, is_ready = make_url(server), threading.Event()
    pooler, loop = TransactionPooler(url, size), asyncio.new_event_loop()
    task = loop.create_task(pooler.serve(is_ready))

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert is_ready.wait(60)
    try:
        there = URL.create(
            "postgresql", url.username, host="127.0.0.1", port=pooler.port, database=url.database
        )
        yield there.render_as_string(hide_password=False)
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
