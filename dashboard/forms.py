"""A form out of a payload's type, and a payload out of what was filled in.

The struct's own rules are checked where it is sent; here every field only gets the input that fits.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import inspect as kinds

from broker.errors import HeadraceError

#: Which input: a line of text, a number, one of a list, yes or no, JSON, or fields of its own.
Input: TypeAlias = Literal["text", "integer", "number", "choice", "flag", "json", "group"]

_DEEPEST: Final = 4


class FormRefused(HeadraceError, ValueError):
    """A field has no value of its kind."""

    def __init__(self, name: str, value: str, rule: str) -> None:
        super().__init__(f"{name}: {rule}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Field:
    """One input. ``name`` is its place in the payload, as in ``payload.user.id``."""

    name: str
    label: str
    input: Input
    required: bool
    choices: tuple[str, ...] = ()
    hint: str = ""
    fields: tuple[Field, ...] = field(default=())


def fields_of(payload: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The inputs for a payload of this type."""
    kind = kinds.type_info(payload)
    return _fields(kind, "payload", 0) if isinstance(kind, kinds.StructType) else ()


def parameters_of(function: Any) -> str:
    """An actor's parameters, for people."""
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(...)"


def payload_of(fields: tuple[Field, ...], form: Mapping[str, str]) -> dict[str, Any]:
    """The payload as JSON's types; what was left empty and may be is left out.

    Raises:
      FormRefused: a field is required, or its text is none of its kind.
    """
    found: dict[str, Any] = {}
    for each in fields:
        value = _value(each, form)
        if value is not msgspec.UNSET:
            found[each.name.rpartition(".")[2]] = value
    return found


def _fields(kind: kinds.StructType, at: str, depth: int) -> tuple[Field, ...]:
    return tuple(
        _field(each.type, f"{at}.{each.encode_name}", each.encode_name, each.required, depth)
        for each in kind.fields
    )


def _field(kind: kinds.Type, name: str, label: str, required: bool, depth: int) -> Field:
    kind = _bare(kind)
    match kind:
        case kinds.Metadata():
            return _field(kind.type, name, label, required, depth)
        case kinds.StrType():
            return Field(name, label, "text", required and kind.min_length != 0)
        case kinds.IntType():
            return Field(name, label, "integer", required)
        case kinds.FloatType():
            return Field(name, label, "number", required)
        case kinds.BoolType():
            return Field(name, label, "flag", required)
        case kinds.LiteralType(values=values) if all(isinstance(v, str) for v in values):
            return Field(name, label, "choice", required, tuple(map(str, values)))
        case kinds.EnumType(cls=cls) if all(isinstance(each.value, str) for each in cls):
            return Field(name, label, "choice", required, tuple(each.value for each in cls))
        case kinds.StructType() if depth < _DEEPEST and required:
            inner = _fields(kind, name, depth + 1)
            return Field(name, label, "group", required, fields=inner)
        case _:
            return Field(name, label, "json", required, hint=_hint(kind))


def _bare(kind: kinds.Type) -> kinds.Type:
    """The type without its None, if nothing else is left to choose from."""
    if isinstance(kind, kinds.UnionType):
        others = [each for each in kind.types if not isinstance(each, kinds.NoneType)]
        if len(others) == 1:
            return others[0]
    return kind


def _hint(kind: kinds.Type) -> str:
    match kind:
        case kinds.DictType() | kinds.StructType():
            return "a JSON object"
        case kinds.ListType() | kinds.VarTupleType() | kinds.SetType():
            return "a JSON array"
        case _:
            return "JSON"


def _value(each: Field, form: Mapping[str, str]) -> Any:
    if each.input == "group":
        return payload_of(each.fields, form)
    text = form.get(each.name, "")
    if each.input == "flag":
        return {"yes": True, "no": False}.get(text, msgspec.UNSET)
    if not text.strip():
        if each.required:
            raise FormRefused(each.name, text, "must be filled in")
        return msgspec.UNSET
    try:
        return _parsed(each.input, text)
    except ValueError:
        raise FormRefused(each.name, text, f"must be {each.hint or each.input}") from None


def _parsed(kind: Input, text: str) -> Any:
    match kind:
        case "integer":
            return int(text)
        case "number":
            return float(text)
        case "json":
            return json.loads(text)
        case _:
            return text
