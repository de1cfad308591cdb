"""A TCP proxy in front of a server: a network that is slow, silent, or cut at a chosen moment."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

HOST = "127.0.0.1"
_CHUNK = 65_536
#: How often a part of what is throttled is sent on, in seconds.
_BEAT_S = 0.05
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close sends RST

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to requests and to replies on their way. The default is a fair day."""

    delay_s: float = 0.0
    #: Up to so much more, at random, for each piece.
    jitter_s: float = 0.0
    #: Every byte by itself.
    split: bool = False
    #: In each direction of each connection.
    bytes_per_s: float | None = None
    #: For requests alone, where they are slower than replies.
    request_bytes_per_s: float | None = None

    @property
    def up_bytes_per_s(self) -> float | None:
        """How fast requests pass."""
        return self.bytes_per_s if self.request_bytes_per_s is None else self.request_bytes_per_s


@dataclass(eq=False)
class Cut:
    """A reset, once, when a reply to `request` arrives that contains `reply`."""

    request: bytes
    reply: bytes
    #: How much of that piece of the reply still reaches the client, 0 to 1.
    share: float
    happened: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    #: The client's last words, long enough for a command and its arguments.
    request: bytes = b""


class Proxy:
    """Carries connections to a server on this machine; on a thread of its own.

    Everything it does to them is asked for by a method and has happened when that returns.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._weather = Weather()
        self._cuts: list[Cut] = []
        self._connections: set[_Connection] = set()
        self._ways: set[asyncio.Future[None]] = set()
        self._accepted = 0
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()  # cleared: nothing passes, in either direction
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._listener = self._do(asyncio.start_server(self._serve, HOST, 0))
        self.port: int = self._listener.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """The server's URL by this way."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return self._accepted

    def weather(self, **changes: Any) -> None:
        """From now on: see `Weather`; what is not named is fair."""
        self._weather = replace(Weather(), **changes)

    def blackhole(self) -> None:
        """Nothing passes any more, and nobody is told; connecting still works."""
        self._call(self._open.clear)

    def restore(self) -> None:
        """End a blackhole; what was sent meanwhile arrives now."""
        self._call(self._open.set)

    def reset(self) -> int:
        """RST to every client; how many there were."""

        async def reset_all() -> int:
            connections = list(self._connections)
            for connection in connections:
                _reset(connection)
            return len(connections)

        return self._do(reset_all())

    def cut(self, request: bytes, *, reply: bytes = b"", share: float = 0.0) -> Cut:
        """Reset a client once the server has executed its request, before or within the reply.

        The server has done its work by then: it executes a command before it answers. A
        refusal (an error reply) is no execution and passes.
        """
        made = Cut(request, reply, share)
        self._call(self._cuts.append, made)
        return made

    def close(self) -> None:
        """End every connection and the thread."""

        async def end() -> None:
            self._listener.close()
            for connection in list(self._connections):
                _reset(connection)
            for way in list(self._ways):
                way.cancel()
            while self._ways or self._connections:  # each removes itself
                await asyncio.sleep(0)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, function: Any, *args: Any) -> None:
        async def call() -> None:
            function(*args)

        self._do(call())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted += 1
        try:
            from_server, to_server = await asyncio.open_connection(HOST, self._server_port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, to_server)
        self._connections.add(connection)
        ways = {
            asyncio.ensure_future(self._requests(connection, reader)),
            asyncio.ensure_future(self._replies(connection, from_server)),
        }
        self._ways |= ways
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._ways -= ways
            self._connections.discard(connection)
            writer.close()
            to_server.close()

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            await self._open.wait()
            connection.request = (connection.request + data)[-_CHUNK:]
            await self._send(connection.server, data, self._weather.up_bytes_per_s)

    async def _replies(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            await self._open.wait()
            cut = self._cut_for(connection, data)
            if cut is not None:
                connection.client.write(data[: int(len(data) * cut.share)])
                await connection.client.drain()
                _reset(connection)
                cut.happened.set()
                return
            connection.request = b""
            await self._send(connection.client, data, self._weather.bytes_per_s)

    def _cut_for(self, connection: _Connection, data: bytes) -> Cut | None:
        for cut in self._cuts:
            if cut.request in connection.request and cut.reply in data and data[:1] != b"-":
                self._cuts.remove(cut)
                return cut
        return None

    async def _send(
        self, writer: asyncio.StreamWriter, data: bytes, bytes_per_s: float | None
    ) -> None:
        weather = self._weather
        pause = weather.delay_s + random.uniform(0, weather.jitter_s)
        if pause:
            await asyncio.sleep(pause)
        size = len(data)
        if bytes_per_s is not None:
            size = max(1, int(bytes_per_s * _BEAT_S))
        for start in range(0, len(data), size):
            if start:
                await asyncio.sleep(_BEAT_S)
            await _write(writer, data[start : start + size], split=weather.split)


async def _write(writer: asyncio.StreamWriter, data: bytes, *, split: bool) -> None:
    for start in range(0, len(data), 1 if split else max(1, len(data))):
        writer.write(data[start : start + 1] if split else data)
        await writer.drain()
        if split:
            await asyncio.sleep(0)  # the transport sends it, by itself: no Nagle in asyncio


def _reset(connection: _Connection) -> None:
    made: socket.socket = connection.client.get_extra_info("socket")
    if made.fileno() != -1:  # not closed already, by an earlier reset
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.client.transport.abort()
    connection.server.transport.abort()
