"""Messages to the fields of an entry and back, sealed where a middleware says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dramatiq.encoder import PickleEncoder
from dramatiq.errors import DecodeError
from dramatiq.message import Message
from dramatiq.middleware import Middleware
from dramatiq.results import Results

from broker import entry, evidence
from broker.dead_letter import DeadLetter
from broker.entry import Fields
from broker.errors import InvalidOption, PickleRefused
from broker.evidence import ATTEMPTS, Trail
from broker.outbox import Place as FlowPlace
from broker.sealing import (
    OPTION,
    READABLE_OPTIONS,
    Place,
    Purpose,
    Sealer,
    SealingFailed,
    Unauthenticated,
    Undecryptable,
)

# JSON begins with no such byte.
_SEALED_RESULT: Final = b"\0"


class Codec:
    """One a broker. Fails closed: what is to be sealed is sealed or not encoded at all."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._sealer: Sealer | None = None
        self._results: list[Results] = []

    def use(self, middleware: Iterable[Middleware]) -> None:
        """Look for the sealer among a broker's middleware, and seal its results by it.

        Raises:
          InvalidOption: there is more than one.
        """
        middleware = list(middleware)
        sealers = [each for each in middleware if isinstance(each, Sealer)]
        if len(sealers) > 1:
            raise InvalidOption("middleware", sealers, "may seal messages in one way only")
        self._sealer = sealers[0] if sealers else None
        self._results = [each for each in middleware if isinstance(each, Results)]
        if self._sealer is not None:
            for each in self._results:
                each.backend = self._sealer.results(each.backend, self._namespace)

    def refuse_pickle(self) -> None:
        """Make sure that no body and no result will be unpickled.

        Raises:
          PickleRefused: one would.
        """
        entry.safe_encoder()
        for each in self._results:
            if isinstance(each.backend.encoder, PickleEncoder):
                raise PickleRefused("encoder of the Results backend")

    def seals(self, message: Message[Any]) -> bool:
        """Whether a message is sealed when it is encoded."""
        return self._sealer is not None and self._sealer.seals(message)

    def encode(self, message: Message[Any]) -> Fields:
        """The fields of a message.

        Raises:
          SealingFailed: it is to be sealed and can't be.
        """
        sealer = self._sealer
        if sealer is None:
            if OPTION in message.options:
                raise SealingFailed(f"message {message.message_id!r}: nothing here can encrypt it")
            return entry.encode(message)
        if not sealer.seals(message):
            return entry.encode(message)
        readable, content = _divided(message.options)
        body = entry.dump_body(message.args, message.kwargs, content)
        fields: Fields = [
            *("id", message.message_id, "actor", message.actor_name),
            *("at", str(message.message_timestamp)),
            *("sealed", sealer.seal(self._place_of(message), body)),
        ]
        if readable:
            fields += ("options", entry.dump_json(readable).decode())
        return fields

    def decode(self, queue_name: str, fields: Mapping[bytes, bytes]) -> Message[Any]:
        """The message of an entry; one that was sealed has the option ``encrypted``.

        Raises:
          DecodeError: a field is missing or can't be decoded.
          Undecryptable, Unauthenticated: it is not for us, or not genuine.
        """
        if b"sealed" in fields:
            return self._opened(queue_name, fields)
        message = entry.decode(queue_name, fields)
        if OPTION in message.options:
            raise Unauthenticated("its options say that it is encrypted, and it is not")
        if self._sealer is not None and self._sealer.refuses_clear(message.actor_name):
            raise Unauthenticated(f"actor {message.actor_name!r} takes sealed bodies only")
        return message

    def seal_trail(self, message: Message[Any], trail: str | bytes) -> bytes:
        """What a dead letter tells of the end of a sealed message: it may quote the content.

        Raises:
          SealingFailed: nothing here can encrypt it.
        """
        if self._sealer is None:
            raise SealingFailed(f"message {message.message_id!r}: nothing here can encrypt it")
        data = trail.encode() if isinstance(trail, str) else trail
        return self._sealer.seal(self._place_of(message, "trail"), data)

    def keep_result(self, message: Message[Any], where: FlowPlace, body: bytes) -> bytes:
        """A step's result as its flow keeps it: sealed when the step's message is.

        Raises:
          SealingFailed: it is to be sealed and can't be.
        """
        if self._sealer is None or not self._sealer.seals(message):
            return body
        place = self._place_in_flow(where.home, where.flow_id, where.number)
        return _SEALED_RESULT + self._sealer.seal(place, body)

    def read_result(self, home: str, flow_id: str, number: int, kept: bytes) -> bytes:
        """The inverse of :meth:`keep_result`, by the number of the message in its flow.

        Raises:
          Undecryptable, Unauthenticated: it is not for us, or not genuine.
        """
        if not kept.startswith(_SEALED_RESULT):
            return kept
        if self._sealer is None:
            raise Undecryptable("this process has no keys")
        place = self._place_in_flow(home, flow_id, number)
        return self._sealer.open(place, kept.removeprefix(_SEALED_RESULT))

    def _place_in_flow(self, home: str, flow_id: str, number: int) -> Place:
        return Place("flow", self._namespace, home, "", f"{flow_id}/{number}", 0)

    def resealed(
        self, queue_name: str, fields: Mapping[bytes, bytes], trail: bytes
    ) -> tuple[bytes, bytes]:
        """The sealed body of an entry and the trail of its dead letter, each by the active key.

        What is sealed by that already is returned as it is, and so is a trail that is empty.

        Raises:
          SealingFailed: nothing here can encrypt it.
          DecodeError, Undecryptable, Unauthenticated: as :meth:`decode`.
        """
        sealer = self._sealer
        if sealer is None:
            raise SealingFailed(f"queue {queue_name!r}: nothing here can encrypt")
        message = entry.decode_header(queue_name, fields)

        def anew(purpose: Purpose, sealed: bytes) -> bytes:
            if not sealed or sealer.is_current(sealed):
                return sealed
            place = self._place_of(message, purpose)
            return sealer.seal(place, sealer.open(place, sealed))

        return anew("message", fields[b"sealed"]), anew("trail", trail)

    def revealed(self, letter: DeadLetter) -> DeadLetter:
        """A sealed dead letter with its message, traceback and attempts; another one unchanged.

        Raises:
          DecodeError, Undecryptable, Unauthenticated: as :meth:`decode`.
        """
        if not letter.sealed:
            return letter
        message = self._opened(letter.queue, letter.raw)
        trail = Trail()
        if letter.trail and self._sealer is not None:
            place = self._place_of(message, "trail")
            trail = evidence.load(self._sealer.open(place, letter.trail))
        return letter.with_content(message, trail)

    def _opened(self, queue_name: str, fields: Mapping[bytes, bytes]) -> Message[Any]:
        message = entry.decode_header(queue_name, fields)
        options = message.options
        if foreign := sorted(options.keys() - READABLE_OPTIONS):
            raise Unauthenticated(f"options {foreign} are not sealed")
        if self._sealer is None:
            raise Undecryptable("this process has no keys")
        body = self._sealer.open(self._place_of(message), fields[b"sealed"])
        try:
            args, kwargs, content = entry.load_body(body)
        except Exception as error:
            # Whatever the decoder says of it may quote it.
            text = f"sealed body of queue {queue_name!r}: {type(error).__name__}"
            raise DecodeError(text, b"", None) from None
        if "retries" not in options:
            # Redriven by somebody without the key, who could reset no more than the counter.
            content = {n: v for n, v in content.items() if n not in (ATTEMPTS, "traceback")}
        opened = {**content, **options, OPTION: True}
        return dataclasses.replace(message, args=args, kwargs=kwargs, options=opened)

    def _place_of(self, message: Message[Any], purpose: Purpose = "message") -> Place:
        return Place(
            purpose,
            self._namespace,
            message.queue_name,
            message.actor_name,
            message.message_id,
            message.message_timestamp,
        )


def _divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stays readable, and what is content."""
    readable = {name: value for name, value in options.items() if name in READABLE_OPTIONS}
    content = {
        name: value for name, value in options.items() if name not in readable and name != OPTION
    }
    return readable, content
