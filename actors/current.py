"""What a running job may ask about itself."""

from __future__ import annotations

from uuid import uuid4

import dramatiq
from dramatiq.middleware import CurrentMessage

from broker import StreamsBroker


def message_id() -> str:
    """The id of the message being processed: the same at every attempt and redelivery.

    A job called directly, as a function, has none and gets a new one at each call.
    """
    message = CurrentMessage.get_current_message()
    return str(uuid4()) if message is None else message.message_id


def streams_broker() -> StreamsBroker:
    """The application's broker.

    Raises:
      TypeError: the process runs on another kind of broker.
    """
    broker = dramatiq.get_broker()
    if not isinstance(broker, StreamsBroker):
        raise TypeError(f"this job needs a StreamsBroker, not a {type(broker).__name__}")
    return broker
