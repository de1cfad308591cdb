"""Reading settings: tables and environment variables into typed, frozen structs.

Nothing here knows a single setting. What is wrong becomes a
:class:`broker.errors.SettingsError` that names the field, the value and the rule;
the value of a secret is never shown.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from broker.errors import SettingsError

T = TypeVar("T")

#: What is shown in place of a secret.
HIDDEN: Final = "***"

_PROBLEM = re.compile(r"^(?P<rule>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)


class Secret:
    """A value that is used but never shown: its repr, its str and its pickle hide it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable and the setting it gives, as a dotted path."""

    name: str
    field: str
    #: Variables are text; this makes the setting's type of it. ValueError: left to the struct.
    parse: Callable[[str], object] = str


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
      SettingsError: the file can't be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            "settings file", str(path), f"can't be read ({error.strerror})"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("settings file", str(path), f"is no TOML: {error}") from error


def value_of(environ: Mapping[str, str], name: str) -> str | None:
    """The variable's value, or what stands in the file that ``<name>_FILE`` names.

    One that is set to nothing counts as not set; a file's last line ends are not part of it.

    Raises:
      SettingsError: the file can't be read.
    """
    found = environ.get(name)
    path = environ.get(f"{name}_FILE")
    if found or not path:
        return found or None
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n") or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise SettingsError(f"{name}_FILE", path, f"can't be read ({reason})") from error


def from_environment(environ: Mapping[str, str], variables: Iterable[Variable]) -> dict[str, Any]:
    """The tables that the variables describe, for :func:`merge`."""
    tables: dict[str, Any] = {}
    for variable in variables:
        text = value_of(environ, variable.name)
        if text is not None:
            put(tables, variable.field, _parsed(variable, text))
    return tables


def _parsed(variable: Variable, text: str) -> object:
    try:
        return variable.parse(text)
    except ValueError:
        return text


def put(tables: dict[str, Any], field: str, value: object) -> None:
    """Set a dotted path, making the tables on the way."""
    *parents, last = field.split(".")
    for parent in parents:
        tables = tables.setdefault(parent, {})
    tables[last] = value


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers over one another, the last wins; tables are merged key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(below, Mapping) and isinstance(value, Mapping):
                merged[key] = merge(below, value)
            else:
                merged[key] = value
    return merged


def build(
    kind: type[T],
    table: object,
    *,
    at: str = "",
    names: Mapping[str, str] | None = None,
    secret: Iterable[str] = (),
) -> T:
    """The struct that the table describes, validated.

    Args:
      at: where the table stands, to name a field in full.
      names: for a field that came from an environment variable, the variable's name.
      secret: fields whose value an error hides.

    Raises:
      SettingsError: the first field that is unknown, missing or breaks its rule.
    """
    try:
        return msgspec.convert(table, kind, dec_hook=_decode_secret)
    except msgspec.ValidationError as error:
        raise _explained(error, kind, table, at, names or {}, frozenset(secret)) from None


def _decode_secret(kind: type[Any], value: object) -> object:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError(f"Expected `str`, got `{type(value).__name__}`")


def _explained(
    error: msgspec.ValidationError,
    kind: type[Any],
    table: object,
    at: str,
    names: Mapping[str, str],
    secret: frozenset[str],
) -> SettingsError:
    found = _PROBLEM.match(str(error))
    path = (found["path"] or "").lstrip(".") if found else ""
    rule = found["rule"] if found else str(error)
    if unknown := _UNKNOWN_FIELD.match(rule):
        path = _joined(path, unknown["name"])
        rule = "unknown setting" + _suggestion(unknown["name"], kind)
    elif missing := _MISSING_FIELD.match(rule):
        path, rule = _joined(path, missing["name"]), "is required"
    value = HIDDEN if path in secret else _lookup(table, path)
    return SettingsError(names.get(path, _joined(at, path)), value, rule)


def _suggestion(name: str, kind: type[Any]) -> str:
    known = kind.__struct_fields__ if issubclass(kind, msgspec.Struct) else ()
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _lookup(table: object, path: str) -> object:
    for key in path.split(".") if path else ():
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
