"""What the exit status of `headrace` says; docs/cli.md has the same table."""

from __future__ import annotations

from enum import IntEnum

from dramatiq.errors import BrokerConnectionError

from broker.errors import (
    AuthenticationRefused,
    CertificateRefused,
    DatabaseRefused,
    HeadraceError,
    SettingsError,
)


class Exit(IntEnum):
    """0 is success, 1 an unexpected error."""

    #: What was asked can't be done, or a check found something.
    FAILED = 1
    #: The command line or a setting is wrong.
    USAGE = 2
    #: There is no such job, queue or schedule.
    NOT_FOUND = 3
    #: The server can't be reached, or does not answer in time.
    UNREACHABLE = 4
    #: The server refuses the credentials, access control denies a command, or a certificate is bad.
    DENIED = 5
    #: What was waited for has not happened in time.
    TIMED_OUT = 6
    #: By Ctrl-C. What was done stays done; the same command goes on with the rest.
    INTERRUPTED = 130


class Failed(HeadraceError):
    """A command ends here: its message, and the exit status."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: Exception) -> Exit:
    """The exit status for an error that a command has not dealt with."""
    match error:
        case Failed(code=code):
            return code
        case LookupError():  # a job, a schedule, a flow
            return Exit.NOT_FOUND
        case TimeoutError():
            return Exit.TIMED_OUT
        case SettingsError() | DatabaseRefused() | ValueError():  # an option, a payload
            return Exit.USAGE
        case AuthenticationRefused() | CertificateRefused():
            return Exit.DENIED
        case BrokerConnectionError():
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED
