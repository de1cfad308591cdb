"""maintenance-queue: the steps that clean up after an account, and those that undo them.

Each is a job of its own; ``pipelines/account_cleanup.py`` makes a flow of them. Each may be
interrupted anywhere and repeated.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

from msgspec import Meta

from actors import current
from actors.app import application
from actors.digest import Digest
from actors.inbox import Inbox
from actors.job import job
from actors.payloads import UserId
from actors.preferences import Preferences
from actors.storage import Storage
from broker.errors import translated
from middleware.payload import Payload

_QUEUE: Final = "maintenance-queue"


class Account(Payload, frozen=True, kw_only=True):
    """Whose account it is; ``case`` names this clean-up among others of the same user."""

    user_id: UserId
    case: Annotated[str, Meta(pattern=r"^[0-9a-zA-Z-]{1,64}$")]

    @property
    def folder(self) -> str:
        """Where the user's files lie in the storage."""
        return f"users/{quote(self.user_id, safe='')}"

    @property
    def trash(self) -> str:
        """Where copies of them lie until the clean-up is over."""
        return f"trash/{self.case}"


@job(queue_name=_QUEUE)
def suspend_account(account: Account) -> None:
    """Note that the account takes part in nothing any more."""
    _suspended("sadd", account)


@job(queue_name=_QUEUE)
def reinstate_account(account: Account) -> None:
    """Undo every step before the messages are erased, also one that failed half way.

    The copies go back where the files were, and the account takes part again.
    """
    storage = Storage(application.storage.url)
    copies = storage.list(account.trash)
    for copy in copies:
        storage.write(f"{account.folder}{copy.removeprefix(account.trash)}", storage.read(copy))
    for copy in copies:  # not before all are back: interrupted, it is repeated
        storage.remove(copy)
    _suspended("srem", account)


@job(queue_name=_QUEUE)
def set_files_aside(account: Account) -> list[str]:
    """Copy the user's files where they can be had back from; returns their paths."""
    storage = Storage(application.storage.url)
    paths = storage.list(account.folder)
    for path in paths:
        storage.write(f"{account.trash}{path.removeprefix(account.folder)}", storage.read(path))
    return paths


@job(queue_name=_QUEUE)
def remove_files(account: Account, paths: list[str]) -> None:
    """Remove the files of which there are copies, and no other."""
    storage = Storage(application.storage.url)
    for path in paths:
        storage.remove(path)


@job(queue_name=_QUEUE)
def discard_copies(account: Account) -> None:
    """Remove the copies; nothing brings the files back afterwards."""
    storage = Storage(application.storage.url)
    for copy in storage.list(account.trash):
        storage.remove(copy)


@job(queue_name=_QUEUE)
def erase_messages(account: Account) -> None:
    """Drop the user's inbox, digest and preferences for good."""
    broker = current.streams_broker()
    Inbox(broker.client, broker.namespace, account.user_id).forget()
    Digest(broker.client, broker.namespace, account.user_id).forget()
    Preferences(broker.client, broker.namespace).forget(account.user_id)


def suspended_key(namespace: str) -> str:
    """The set of the users whose accounts are suspended."""
    return f"{{{namespace}}}:suspended"


def _suspended(command: str, account: Account) -> None:
    broker = current.streams_broker()
    with translated():
        broker.client.execute_command(command, suspended_key(broker.namespace), account.user_id)
