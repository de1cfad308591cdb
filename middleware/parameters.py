"""An actor's parameters: from values to the wire in the caller, and back in the worker."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, get_type_hints

import msgspec

from middleware.payload import InvalidPayload, RuleBroken, read

Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Parameters:
    """The signature of an actor's function, applied to calls of it."""

    def __init__(self, actor: str, function: Callable[..., Any]) -> None:
        """Read the annotations; TypeError for one that can't be resolved yet."""
        self._actor = actor
        self._signature = inspect.signature(function)
        try:
            self._hints = get_type_hints(function, include_extras=True)
        except NameError as error:
            raise TypeError(
                f"actor {actor!r}: an annotation can't be resolved ({error}); "
                "import the type at run time, not under TYPE_CHECKING"
            ) from error

    @property
    def payload_type(self) -> type[msgspec.Struct] | None:
        """The struct that the actor takes, when it takes one payload."""
        required = [
            name
            for name, parameter in self._signature.parameters.items()
            if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
        ]
        if len(required) != 1:
            return None
        kind = self._hints.get(required[0])
        return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None

    def require(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise InvalidPayload when an argument is missing or too many are given."""
        self._bound(self._signature.bind, args, kwargs)

    def dump(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """The arguments as JSON's own types, validated as the worker will.

        Missing ones are left to whoever completes the message (a pipeline does).
        Raises InvalidPayload with the path and the rule.
        """
        return self._each(self._signature.bind_partial, args, kwargs, self._dumped)

    def load(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """The arguments as the annotated types. Raises as :meth:`dump`, for a missing one too."""
        return self._each(self._signature.bind, args, kwargs, self._loaded)

    def _each(
        self,
        bind: Callable[..., inspect.BoundArguments],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        change: Callable[[str, Any], Any],
    ) -> Call:
        bound = self._bound(bind, args, kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = change(name, value)
        return bound.args, bound.kwargs

    def _bound(
        self,
        bind: Callable[..., inspect.BoundArguments],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> inspect.BoundArguments:
        try:
            return bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidPayload(self._actor, "arguments", str(error)) from None

    def _dumped(self, name: str, value: Any) -> Any:
        plain = self._plain(name, value)
        self._typed(name, plain)
        return plain

    def _loaded(self, name: str, value: Any) -> Any:
        return self._typed(name, self._plain(name, value))

    def _plain(self, name: str, value: Any) -> Any:
        try:
            return msgspec.to_builtins(value, str_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidPayload(self._actor, self._path(name), str(error)) from None

    def _typed(self, name: str, plain: Any) -> Any:
        if self._signature.parameters[name].kind in _VARIADIC:
            return plain
        try:
            return read(self._hints.get(name, Any), plain, self._path(name))
        except RuleBroken as error:
            raise InvalidPayload(self._actor, error.path, error.rule) from None

    def _path(self, name: str) -> str:
        # The one payload is the root; several arguments are told apart by their names.
        return "$" if len(self._signature.parameters) == 1 else f"$.{name}"
