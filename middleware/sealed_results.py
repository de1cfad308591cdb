"""The results of encrypted jobs, encrypted in whichever backend keeps them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from dramatiq.encoder import JSONEncoder
from dramatiq.message import Message
from dramatiq.results import ResultBackend
from dramatiq.results.result import unwrap_result, wrap_exception, wrap_result

from broker import entry
from broker.sealing import Place, Sealer, Unauthenticated

_SEALED: Final = "headrace.sealed"


class SealedResults(ResultBackend):
    """Wraps any of Dramatiq's backends; what it keeps for other jobs passes unchanged."""

    def __init__(self, backend: ResultBackend, sealer: Sealer, namespace: str) -> None:
        super().__init__(namespace=backend.namespace, encoder=backend.encoder)
        self._backend = backend
        self._sealer = sealer
        self._place_namespace = namespace

    def store_result(self, message: Message[Any], result: Any, ttl: int) -> None:
        """Keep the value for ``ttl`` ms."""
        if self._sealer.seals(message):
            result = self._sealed(message, wrap_result(result))
        self._backend.store_result(message, result, ttl)

    def store_exception(self, message: Message[Any], exception: Exception, ttl: int) -> None:
        """Keep the exception's type and text for ``ttl`` ms."""
        if self._sealer.seals(message):
            sealed = self._sealed(message, wrap_exception(exception))
            self._backend.store_result(message, sealed, ttl)
        else:
            self._backend.store_exception(message, exception, ttl)

    def get_result(
        self, message: Message[Any], *, block: bool = False, timeout: int | None = None
    ) -> Any:
        """As the backend's own.

        Raises:
          ResultMissing, ResultTimeout, ResultFailure: as from the backend.
          Undecryptable: this process does not have the key.
          Unauthenticated: the result was changed, is another job's, or is in clear and must not be.
        """
        found = self._backend.get_result(message, block=block, timeout=timeout)
        if not isinstance(found, Mapping) or _SEALED not in found:
            if self._sealer.refuses_clear(message.actor_name):
                raise Unauthenticated("the result of an encrypted job is not sealed")
            return found
        body = self._sealer.open(self._place_of(message), base64.b64decode(found[_SEALED]))
        return unwrap_result(self._load(body))

    def build_message_key(self, message: Message[Any]) -> str:
        """The backend's own name for it."""
        return str(self._backend.build_message_key(message))

    def _sealed(self, message: Message[Any], value: Any) -> dict[str, str]:
        body = self._dump(value)
        sealed = self._sealer.seal(self._place_of(message), body)
        return {_SEALED: base64.b64encode(sealed).decode()}

    def _place_of(self, message: Message[Any]) -> Place:
        return Place(
            "result",
            self._place_namespace,
            message.queue_name,
            message.actor_name,
            message.message_id,
            timestamp=0,  # whoever knows the id may ask for the result
        )

    def _dump(self, value: Any) -> bytes:
        if type(self.encoder) is JSONEncoder:
            return entry.dump_json(value)
        return self.encoder.encode(value)

    def _load(self, body: bytes) -> Any:
        return (
            entry.load_json(body)
            if type(self.encoder) is JSONEncoder
            else self.encoder.decode(body)
        )
