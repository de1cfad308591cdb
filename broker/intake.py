"""Event intake as operators see it: how far it is behind, and what it could not take."""

from __future__ import annotations

from contextlib import suppress

from broker.event_source import Aside, NoSource, SourceInfo
from broker.intake_commands import IntakeCommands


class Intake:
    """The streams of events that were ever read under a namespace."""

    def __init__(self, commands: IntakeCommands) -> None:
        self._commands = commands

    def sources(self) -> list[SourceInfo]:
        """Where each source stands; those whose stream or group is gone are left out."""
        found: list[SourceInfo] = []
        for source in self._commands.sources():
            with suppress(NoSource):
                found.append(self._commands.look(source))
        return found

    def aside(self, offset: int = 0, limit: int = 50) -> list[Aside]:
        """One page of the events that can't become messages, the latest first."""
        return self._commands.asides(offset, limit)
