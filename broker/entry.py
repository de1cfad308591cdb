"""The wire format: a Dramatiq message as the fields of a stream entry, and back.

``docs/wire-format.md`` describes it for producers in other languages.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, Final, TypeAlias

import msgspec
from dramatiq.encoder import Encoder, JSONEncoder, PickleEncoder
from dramatiq.errors import DecodeError
from dramatiq.message import Message, get_encoder

from broker.errors import PickleRefused

#: Field, value, field, value, ...: the order in which XADD takes them.
Fields: TypeAlias = list[str | bytes]

#: What Dramatiq's worker and the scripts take for granted of a message's fields.
_TYPES: Final[Mapping[str, type[Any] | UnionType]] = {
    "actor_name": str,
    "args": list | tuple,
    "kwargs": dict,
    "options": dict,
    "message_id": str,
    "message_timestamp": int,
}

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


def encode(message: Message[Any]) -> Fields:
    """The fields of a message; its queue is the key, so it is not among them.

    Raises whatever the encoder raises for a value it can't represent.
    """
    encoder = safe_encoder()
    if type(encoder) is not JSONEncoder:
        return ["id", message.message_id, "message", encoder.encode(message.asdict())]
    fields: Fields = [
        "id",
        message.message_id,
        "actor",
        message.actor_name,
        "at",
        str(message.message_timestamp),
        "args",
        dump_json(message.args).decode(),
    ]
    if message.kwargs:
        fields += ("kwargs", dump_json(message.kwargs).decode())
    if message.options:
        fields += ("options", dump_json(message.options).decode())
    return fields


def safe_encoder() -> Encoder:
    """Dramatiq's global encoder.

    Raises:
      PickleRefused: it is the one that runs whatever code a body asks for.
    """
    encoder = get_encoder()
    if isinstance(encoder, PickleEncoder):
        raise PickleRefused("dramatiq.set_encoder")
    return encoder


def decode(queue_name: str, fields: Mapping[bytes, bytes]) -> Message[Any]:
    """The message of an entry that was read from a queue.

    Raises:
      DecodeError: a field is missing or can't be decoded.
    """
    try:
        if b"message" in fields:
            return _decode_foreign(queue_name, fields[b"message"])
        kwargs = fields.get(b"kwargs")
        return Message(
            queue_name=queue_name,
            actor_name=fields[b"actor"].decode(),
            args=tuple(_expect(list, load_json(fields[b"args"]))),
            kwargs={} if kwargs is None else _expect(dict, load_json(kwargs)),
            options=_options(fields),
            message_id=fields[b"id"].decode(),
            message_timestamp=int(fields[b"at"]),
        )
    except DecodeError:
        raise
    except Exception as error:
        raise _undecodable(queue_name, fields, error) from error


def decode_header(queue_name: str, fields: Mapping[bytes, bytes]) -> Message[Any]:
    """The message of a sealed entry without its content, with the options that can be read.

    Raises:
      DecodeError: a field is missing or can't be decoded.
    """
    try:
        return Message(
            queue_name=queue_name,
            actor_name=fields[b"actor"].decode(),
            args=(),
            kwargs={},
            options=_options(fields),
            message_id=fields[b"id"].decode(),
            message_timestamp=int(fields[b"at"]),
        )
    except Exception as error:
        raise _undecodable(queue_name, fields, error) from error


def _options(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    options = fields.get(b"options")
    return {} if options is None else _expect(dict, load_json(options))


def _undecodable(queue_name: str, fields: Mapping[bytes, bytes], error: Exception) -> DecodeError:
    return DecodeError(
        f"entry of queue {queue_name!r}: {type(error).__name__}: {error}", dict(fields), error
    )


def with_options(
    message: Message[Any], fields: list[bytes], options: dict[str, Any]
) -> Fields | list[bytes]:
    """The entry's fields with other options; the rest stays byte for byte.

    ``message`` is what the fields decode to.
    """
    if b"message" in fields[::2]:
        return encode(dataclasses.replace(message, options=options))
    kept = [
        part
        for name, value in zip(fields[::2], fields[1::2], strict=True)
        if name != b"options"
        for part in (name, value)
    ]
    return [*kept, b"options", dump_json(options)] if options else kept


def _decode_foreign(queue_name: str, data: bytes) -> Message[Any]:
    # Not Message.decode: that one knows only the encoder, and the queue is ours to say.
    values = safe_encoder().decode(data)
    for name in _TYPES.keys() & values.keys():
        _check(name, values[name])
    return Message(**{**values, "queue_name": queue_name})


def _check(name: str, value: Any) -> None:
    # The encoder makes of a body whatever it likes, and anybody can write one.
    if not isinstance(value, _TYPES[name]):
        raise TypeError(f"{name}: {type(value).__name__}")
    if isinstance(value, str):
        value.encode()  # JSON may bring lone surrogates, which no script can be given


def _expect(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(
            f"expected a JSON {'array' if kind is list else 'object'}, got {type(value).__name__}"
        )
    return value


def dump_body(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> bytes:
    """The content of a message, for sealing; the inverse of :func:`load_body`."""
    body: dict[str, Any] = {"args": args}
    if kwargs:
        body["kwargs"] = dict(kwargs)
    if options:
        body["options"] = dict(options)
    encoder = safe_encoder()
    return dump_json(body) if type(encoder) is JSONEncoder else encoder.encode(body)


def load_body(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Arguments, named arguments and options."""
    encoder = safe_encoder()
    body = load_json(data) if type(encoder) is JSONEncoder else encoder.decode(data)
    args = tuple(body["args"])
    return args, _expect(dict, body.get("kwargs", {})), _expect(dict, body.get("options", {}))


def dump_json(value: Any) -> bytes:
    """JSON as Dramatiq's encoder would write it, at msgspec's speed where the two agree.

    msgspec turns NaN and the infinities into null and refuses lone surrogates and some
    keys; those go through the standard library, so that they survive as with RedisBroker.
    """
    try:
        encoded = _encode_json(value)
    except (TypeError, ValueError):
        return _dump_with_stdlib(value)
    return _dump_with_stdlib(value) if b"null" in encoded else encoded


def _dump_with_stdlib(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=_to_builtins).encode()


def _to_builtins(value: Any) -> Any:
    builtin = msgspec.to_builtins(value)
    if builtin is value:
        raise TypeError(f"{type(value).__name__} is not JSON serializable")
    return builtin


def load_json(data: bytes) -> Any:
    """The inverse of :func:`dump_json`; raises ValueError for what is no JSON."""
    try:
        return _decode_json(data)
    except msgspec.DecodeError:
        return json.loads(data)


def size(fields: Fields) -> int:
    """Bytes of the fields' names and values."""
    return sum(
        len(part.encode()) if type(part) is str and not part.isascii() else len(part)
        for part in fields
    )


def escaped(name: bytes) -> str:
    """Bytes that may be no text as one; :func:`unescaped` gives them back."""
    return name.decode("utf-8", "surrogateescape")


def unescaped(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def to_mapping(parts: list[bytes]) -> dict[bytes, bytes]:
    """Pair up field, value, field, value, ... as a reply carries them."""
    return dict(zip(parts[::2], parts[1::2], strict=True))
