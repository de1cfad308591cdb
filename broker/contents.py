"""What a job that has not ended was sent with: its options, and its arguments when asked for."""

from __future__ import annotations

from typing import Any

from dramatiq.message import Message

from broker import entry
from broker.codec import Codec
from broker.commands import Commands


class Contents:
    """Reads the messages of jobs that wait, run or are scheduled."""

    def __init__(self, commands: Commands, codec: Codec) -> None:
        self._commands = commands
        self._codec = codec

    def of(self, queue: str, message_id: str, *, opened: bool) -> Message[Any] | None:
        """The message of a job; None when it has ended or no record of it is kept.

        Args:
          opened: with what is encrypted of it. Without, such a message has no arguments.

        Raises:
          DecodeError, Undecryptable, Unauthenticated: it can't be read, or not here.
          BrokerConnectionError: the server can't be reached.
        """
        found = self._commands.jobs(queue, [message_id])[0]
        if found is None or not found.fields:
            return None
        if opened:
            return self._codec.decode(queue, found.fields)
        if b"sealed" in found.fields:
            return entry.decode_header(queue, found.fields)
        return entry.decode(queue, found.fields)
