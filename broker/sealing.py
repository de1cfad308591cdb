"""What sealing a message means here; the cryptography and the keys are a middleware's.

A sealed entry has its content (arguments, and every option but the few below) in one field
of bytes. Where it belongs stays readable, and the bytes are bound to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypeAlias

from dramatiq.message import Message
from dramatiq.middleware import MiddlewareError
from dramatiq.results import ResultBackend

from broker.errors import HeadraceError
from broker.evidence import Reason

#: An option of actors (True or False) and of messages (True). A message that was opened has it.
OPTION: Final = "encrypted"

#: Message options that stay readable beside a sealed body: what is read or reset by those who
#: have no keys. They are not protected against changes; all other options are content.
READABLE_OPTIONS: Final = frozenset(
    {
        "broker_priority",
        "correlation_id",
        "redriven_at",
        "redrives",
        "requeue_timestamp",
        "retries",
        "traceparent",
        "unknown_since",
    }
)


class SealingFailed(HeadraceError, MiddlewareError):
    """A message could not be sealed; it was not sent. Hooks may not swallow it."""


class NotOpened(HeadraceError):
    """A body was not opened, so its job does not run. Says nothing of its content."""

    #: For which its entry is buried.
    reason: ClassVar[Reason]


class Undecryptable(NotOpened):
    """There is no key here for it, or another one under the same name."""

    reason = "undecryptable"


class Unauthenticated(NotOpened):
    """It was made or changed by somebody without the key, or belongs to another message."""

    reason = "unauthenticated"


class Replayed(NotOpened):
    """Its message has ended, or was never enqueued: somebody copied the entry."""

    reason = "replayed"


#: What was sealed: a message's content, a job's result, how its dead letter came about, what a
#: flow keeps of a step for those that follow.
Purpose: TypeAlias = Literal["message", "result", "trail", "flow"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed body belongs: opened in the name of anything else, it is refused."""

    purpose: Purpose
    namespace: str
    queue: str
    actor: str
    message_id: str
    #: When the message was first enqueued, unix ms; 0 for a result.
    timestamp: int


class Sealer(ABC):
    """Seals and opens bodies and says which messages are sealed. Thread-safe."""

    @abstractmethod
    def seals(self, message: Message[Any]) -> bool:
        """Whether this message is to be sealed.

        Raises:
          InvalidOption: its option ``encrypted`` is not True.
        """

    @abstractmethod
    def refuses_clear(self, actor_name: str) -> bool:
        """Whether a body for this actor that is not sealed must not be believed."""

    @abstractmethod
    def seal(self, place: Place, body: bytes) -> bytes:
        """The body, encrypted and bound to its place.

        Raises:
          SealingFailed: there is no key to do it with.
        """

    @abstractmethod
    def open(self, place: Place, sealed: bytes) -> bytes:
        """The body.

        Raises:
          Undecryptable, Unauthenticated: it is not for us, or not genuine.
        """

    @abstractmethod
    def is_current(self, sealed: bytes) -> bool:
        """Whether it is sealed by the key that new bodies are sealed by."""

    @abstractmethod
    def results(self, backend: ResultBackend, namespace: str) -> ResultBackend:
        """The backend, with the results of sealed messages sealed in it."""
