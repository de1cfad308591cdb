"""A server that is too old: it speaks just enough of the protocol to say so.

A real TCP server, because the version is what the broker asks a server for; no
such old server can be installed where the tests run.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    protocol = 2

    def handle(self) -> None:
        while command := _read_command(self.rfile):
            self.wfile.write(self._answer([part.decode().upper() for part in command]))

    def _answer(self, command: list[str]) -> bytes:
        match command:
            case ["PING"]:
                return b"+PONG\r\n"
            case ["HELLO", protocol, *_]:
                self.protocol = int(protocol)
                return self._map(_bulk("proto"), b":%d\r\n" % self.protocol)
            case ["INFO", *_]:
                return _bulk(f"# Server\r\n{self.server.version_line}\r\nredis_mode:standalone\r\n")
            case ["CONFIG", "GET", *_]:
                return self._map(_bulk("maxmemory-policy"), _bulk("noeviction"))
            case ["CLIENT" | "SELECT", *_]:
                return b"+OK\r\n"
            case _:
                return f"-ERR unknown command '{command[0]}'\r\n".encode()

    def _map(self, *parts: bytes) -> bytes:
        """Keys and values; protocol 2 has no maps and sends an array."""
        header = b"%%%d\r\n" % (len(parts) // 2) if self.protocol == 3 else b"*%d\r\n" % len(parts)
        return header + b"".join(parts)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, version_line: str) -> None:
        self.version_line = version_line
        super().__init__(("127.0.0.1", 0), _Handler)


def _read_command(stream: BufferedIOBase) -> list[bytes]:
    """One command, an array of bulk strings; empty at the end of the connection."""
    header = stream.readline()
    if not header.startswith(b"*"):
        return []
    parts = []
    for _ in range(int(header[1:])):
        length = int(stream.readline()[1:])
        parts.append(stream.read(length + 2)[:-2])
    return parts


def _bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text.encode()), text.encode())


@contextmanager
def old_server(version_line: str) -> Iterator[str]:
    """The URL of a server whose INFO has this line."""
    with _Server(version_line) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        finally:
            server.shutdown()
            thread.join(5)
