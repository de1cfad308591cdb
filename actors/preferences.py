"""How each user wants to be told things."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
import redis

from actors.payloads import EmailContent, OneLine
from broker.errors import translated
from middleware.payload import Payload, RuleBroken, read

#: digest: collected for a while, then one mail. none: not at all.
Channel: TypeAlias = Literal["email", "push", "in-app", "digest", "none"]


class Preference(Payload, frozen=True, kw_only=True):
    """A user's channel, and the address that the two by mail need."""

    channel: Channel = "in-app"
    email: OneLine | None = None

    def check(self) -> None:
        """Mail has somewhere to go."""
        if self.channel in ("email", "digest"):
            if self.email is None:
                raise RuleBroken("$.email", f"is required by the channel {self.channel!r}")
            EmailContent(to=self.email, subject="-", text="").check()


_DEFAULT = Preference()


class Preferences:
    """Everybody's, in one hash. Every method raises Dramatiq's connection errors."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self._client: Any = client
        self._key = f"{{{namespace}}}:preferences"

    def put(self, preferences: dict[str, Preference]) -> None:
        """Set those of some users, by their ids.

        Raises:
          RuleBroken: one of them breaks a rule; nothing was set.
        """
        values = {
            user: msgspec.json.encode(read(Preference, msgspec.to_builtins(each)))
            for user, each in preferences.items()
        }
        with translated():
            self._client.hset(self._key, mapping=values)

    def get(self, user_id: str) -> Preference:
        """The user's; in the application for one who has said nothing."""
        with translated():
            value = self._client.hget(self._key, user_id)
        return _DEFAULT if value is None else msgspec.json.decode(value, type=Preference)

    def forget(self, user_id: str) -> None:
        """Drop the user's; one who has none is fine."""
        with translated():
            self._client.hdel(self._key, user_id)
