"""Which broker a command works with; made when it is first asked for."""

from __future__ import annotations

import importlib
import sys
from functools import cached_property
from typing import Final

import typer
from dramatiq import Actor
from dramatiq.errors import BrokerConnectionError

from broker.broker import StreamsBroker
from broker.errors import HeadraceError, SettingsError
from broker.settings import Settings

DEFAULT_APPLICATION: Final = "actors"


class Application:
    """The broker that the settings describe, or that of an application's module.

    Most commands need neither actors nor keys: without ``--app`` they work with the settings
    alone, also where the application is not installed.
    """

    def __init__(self, module: str | None) -> None:
        self._module = module

    @cached_property
    def settings(self) -> Settings:
        return Settings.load()

    @cached_property
    def broker(self) -> StreamsBroker:
        """
        Raises:
          SettingsError: a setting or ``--app`` is wrong.
        """
        if self._module is not None:
            return self.with_actors
        return StreamsBroker(
            url=self.settings.redis_url,
            namespace=self.settings.queue_prefix,
            middleware=[],
            max_message_bytes=self.settings.max_message_bytes,
        )

    @cached_property
    def with_actors(self) -> StreamsBroker:
        """The application's broker, with its actors and middleware.

        Raises:
          SettingsError: ``--app`` names no module with a StreamsBroker, or one whose import fails.
        """
        name = DEFAULT_APPLICATION if self._module is None else self._module
        module, _, attribute = name.partition(":")
        sys.path.insert(0, "")  # as dramatiq's own command line finds modules
        try:
            found = getattr(importlib.import_module(module), attribute or "broker", None)
        except (HeadraceError, BrokerConnectionError):
            raise  # it has a status of its own
        except Exception as error:  # a module may raise anything while it is imported
            rule = f"can't be imported ({type(error).__name__}: {error})"
            raise SettingsError("--app", name, rule) from error
        if not isinstance(found, StreamsBroker):
            raise SettingsError("--app", name, "must be a module with a StreamsBroker `broker`")
        return found

    @cached_property
    def sender(self) -> StreamsBroker:
        """As :attr:`with_actors`, for a command that sends: what it sends can be traced.

        Raises:
          SettingsError: as :attr:`with_actors`.
        """
        self.with_actors.emit_after("program_boot", "cli")
        return self.with_actors

    def actor(self, name: str) -> Actor[..., object]:
        """An actor to send, as of :attr:`sender`.

        Raises:
          SettingsError: the application has no actor of this name.
        """
        found = self.sender.actors.get(name)
        if found is None:
            known = ", ".join(sorted(self.sender.actors)) or "none"
            raise SettingsError("actor", name, f"must be one of the application's: {known}")
        return found


def application(ctx: typer.Context) -> Application:
    """What the root command has made for the command that runs."""
    found = ctx.obj
    if not isinstance(found, Application):
        raise TypeError("a command of headrace is run by headrace only")
    return found


def broker_of(ctx: typer.Context) -> StreamsBroker:
    return application(ctx).broker
