"""Clean up after an account, or leave it as it was."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from dramatiq import Message

from actors.accounts import (
    Account,
    discard_copies,
    erase_messages,
    reinstate_account,
    remove_files,
    set_files_aside,
    suspend_account,
)
from actors.job import JobActor
from actors.notifications import send_notification
from actors.payloads import Notification
from pipelines.flow import Flow


def account_cleanup(user_id: str, *, email: str, operator_id: str) -> Flow:
    """The flow that removes what there is of a user; start it with :func:`pipelines.flows.start`.

    If a step fails for good, the files are put back and the account takes part again, and the
    operator is told in the application. At the end the user is told by mail.
    """
    account = Account(user_id=user_id, case=uuid4().hex)

    def of(job: JobActor[..., Any], *, takes: bool = False) -> Message[Any]:
        return job.message_with_options(args=(account,), pipe_ignore=not takes)

    # One undoing for all: only complete steps are undone, and copying may fail half way.
    flow = Flow("account clean-up").step("suspend", of(suspend_account), undo=of(reinstate_account))
    flow.step("set files aside", of(set_files_aside), after="suspend")
    flow.step("remove files", of(remove_files, takes=True), after="set files aside")
    flow.step("erase messages", of(erase_messages), after="remove files")
    # From here on there is nothing to go back to.
    flow.step("discard copies", of(discard_copies), after="erase messages", policy="continue")
    flow.step("tell the user", _mail(user_id, email), after="discard copies", policy="ignore")
    return flow.on_failure(_note(operator_id, user_id))


def _mail(user_id: str, email: str) -> Message[Any]:
    text = "Your account is closed. Your files and messages have been removed.\n"
    content = {"to": email, "subject": "Your account is closed", "text": text}
    notification = Notification(type="email", user_id=user_id, payload=content)
    return send_notification.message_with_options(args=(notification,), pipe_ignore=True)


def _note(operator_id: str, user_id: str) -> Message[Any]:
    content = {"event": "account-clean-up-failed", "userId": user_id}
    notification = Notification(type="in-app", user_id=operator_id, payload=content)
    return send_notification.message_with_options(args=(notification,), pipe_ignore=True)
