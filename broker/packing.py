"""Arrays of msgpack as scripts read and write them: its strings hold any bytes, it has no bin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from broker.entry import Fields

_msgpack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[str]).decode


def pack(fields: Fields | list[bytes], level: int = 0) -> bytes:
    """The fields as one msgpack array of strings, for messages outside a stream."""
    return pack_array([*fields, "level", str(level)] if level else fields)


def pack_array(parts: Iterable[Any]) -> bytes:
    """A msgpack array in which bytes are written as strings, at any depth.

    The servers' cmsgpack knows no msgpack ``bin``.
    """
    return _msgpack(_as_strings(parts))


def pack_plain(parts: Sequence[Any]) -> bytes:
    """As :func:`pack_array` and quicker, for parts of which none is bytes."""
    return _msgpack(parts)


def pack_texts(parts: Sequence[Any]) -> bytes:
    """As :func:`pack_array` and quicker, for parts of which the last one is the fields."""
    if bytes in map(type, parts[-1]):
        return pack_array(parts)
    return pack_plain(parts)


def packed(texts: list[str]) -> msgspec.Raw:
    """Texts as an array that goes into a larger one as it is: much quicker than one by one."""
    return msgspec.Raw(_msgpack(texts))


def _as_strings(value: Any) -> Any:
    if isinstance(value, bytes):
        return msgspec.Raw(_string_header(len(value)) + value)
    if isinstance(value, list | tuple | map):
        return [_as_strings(part) for part in value]
    return value


def _string_header(length: int) -> bytes:
    if length < 32:
        return bytes((0xA0 | length,))
    if length < 1 << 8:
        return bytes((0xD9, length))
    if length < 1 << 16:
        return b"\xda" + length.to_bytes(2, "big")
    return b"\xdb" + length.to_bytes(4, "big")


def unpack(data: bytes) -> list[bytes]:
    """The inverse of :func:`pack`, every part as bytes."""
    try:
        return [part.encode() for part in _unpack(data)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Bytes that are no UTF-8 are strings to the scripts, but not to msgspec.
        return _unpack_raw(data)


def _unpack_raw(data: bytes) -> list[bytes]:
    position, count = _header(data, 0, fixed=0x90, mask=0x0F, wide={0xDC: 2, 0xDD: 4})
    parts = []
    for _ in range(count):
        position, length = _header(
            data,
            position,
            fixed=0xA0,
            mask=0x1F,
            wide={0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4},
        )
        parts.append(data[position : position + length])
        position += length
    return parts


def _header(
    data: bytes, position: int, *, fixed: int, mask: int, wide: Mapping[int, int]
) -> tuple[int, int]:
    """Read one msgpack length; returns the position after it and the length."""
    tag = data[position]
    if tag in wide:
        end = position + 1 + wide[tag]
        return end, int.from_bytes(data[position + 1 : end], "big")
    if tag & ~mask & 0xFF != fixed:
        raise ValueError(f"no msgpack string or array at byte {position}: {tag:#x}")
    return position + 1, tag & mask
