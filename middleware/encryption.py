"""Encrypts what jobs are given, and what they return, before it leaves the process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from dramatiq import Actor, Broker, Message
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware, MiddlewareError
from dramatiq.results import ResultBackend

from broker.errors import InvalidOption
from broker.process_settings import EncryptionSettings
from broker.sealing import OPTION, Place, Sealer
from middleware import envelope
from middleware.keyring import KeyRing
from middleware.sealed_results import SealedResults

# Whether the code that runs belongs to an encrypted job. A context variable and no thread's
# local: what asyncio runs for the job inherits it.
_in_sealed_job: Final[ContextVar[bool]] = ContextVar("headrace_in_sealed_job", default=False)


class InvalidEncryptionOption(InvalidOption, MiddlewareError):
    """The option ``encrypted`` breaks its rule. Not swallowed as other hooks' errors are."""


class Encryption(Middleware, Sealer):
    """Seals the messages of the actors that say ``encrypted=True``, or of all.

    Guarantee: a message that is to be sealed is sealed or not sent. What is sealed stays so
    through retries, burial and redrive, and what an encrypted job sends is encrypted as well,
    unless the receiving actor says ``encrypted=False``.

    Parameters:
      keys: one seals, all open.
      default: what holds for actors that say nothing.
      require: of actors that are encrypted, run no message that is not: it is buried as
        ``unauthenticated``. Switch it on when nothing from before encryption is queued.
    """

    def __init__(self, keys: KeyRing, *, default: bool = False, require: bool = False) -> None:
        self._keys = keys
        self._default = default
        self._require = require
        #: What each declared actor says; None: nothing.
        self._actors: dict[str, bool | None] = {}

    @classmethod
    def from_settings(cls, settings: EncryptionSettings) -> Encryption | None:
        """What the settings ask for; None without keys, and then no actor may ask for it.

        Raises:
          SettingsError: the keys can't be read.
        """
        keys = KeyRing.from_settings(settings)
        if keys is None:
            return None
        return cls(keys, default=settings.default, require=settings.require)

    @property
    def actor_options(self) -> set[str]:
        return {OPTION}

    def before_declare_actor(self, broker: Broker, actor: Actor[..., Any]) -> None:
        said = actor.options.get(OPTION)
        if said is not None and type(said) is not bool:
            raise InvalidEncryptionOption(OPTION, said, "must be True or False")

    def after_declare_actor(self, broker: Broker, actor: Actor[..., Any]) -> None:
        self._actors[actor.actor_name] = actor.options.get(OPTION)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        _in_sealed_job.set(OPTION in message.options)

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        _in_sealed_job.set(False)

    after_nack = after_ack

    def seals(self, message: Message[Any]) -> bool:
        asked = message.options.get(OPTION)
        if asked is not None and asked is not True:
            rule = "must be True for a message; an actor may say False"
            raise InvalidEncryptionOption(OPTION, asked, rule)
        if asked or any(map(self.seals, _carried(message.options))):
            return True
        said = self._actors.get(message.actor_name)
        return self._default or _in_sealed_job.get() if said is None else said

    def refuses_clear(self, actor_name: str) -> bool:
        said = self._actors.get(actor_name)
        return self._require and (self._default if said is None else said)

    def seal(self, place: Place, body: bytes) -> bytes:
        return envelope.seal(self._keys.active, place, body)

    def open(self, place: Place, sealed: bytes) -> bytes:
        return envelope.open(self._keys, place, sealed)

    def is_current(self, sealed: bytes) -> bool:
        found = envelope.Envelope.unpack(sealed)
        active = self._keys.active
        return (found.key_id, found.key_check) == (active.id, active.check)

    def results(self, backend: ResultBackend, namespace: str) -> ResultBackend:
        if isinstance(backend, SealedResults):
            return backend
        return SealedResults(backend, self, namespace)


def _carried(options: Mapping[str, Any]) -> Iterator[Message[Any]]:
    """The messages among a message's options: the next of a pipeline, a group's callbacks."""
    for value in options.values():
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, Mapping) and "actor_name" in each and "args" in each:
                yield Message(**each)
