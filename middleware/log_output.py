"""Where a process's lines go, and how they get there."""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

from broker.process_settings import LoggingSettings
from middleware.log_lines import FIELDS, ConsoleLines, JsonLines

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
# They say what our own events say with more, or the addresses they talk to, secrets included.
_LEAST: Final = {
    "dramatiq.middleware.retries.Retries": logging.ERROR,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
}

#: The logger of jobs' events.
JOBS: Final = "headrace.jobs"

# Lines that may be waiting; then whoever has another one writes them all.
_MOST_WAITING = 500


class Output:
    """Shapes all that this process logs, prints or warns of; for processes that are ours alone.

    The command line of Dramatiq, or of periodiq, has made a handler by now, whose stream is
    kept. With Dramatiq's ``--skip-logging`` there may be none, and stderr is used.
    """

    def __init__(self, settings: LoggingSettings) -> None:
        root = logging.getLogger()
        if not root.handlers:
            root.addHandler(logging.StreamHandler())
        terminal = os.isatty(2)  # sys.stderr is a pipe to Dramatiq's main process
        console = settings.format == "console" or (settings.format == "auto" and terminal)
        formatter = ConsoleLines(colors=terminal) if console else JsonLines()
        self._writers = [_writer(handler) for handler in root.handlers]
        root.handlers = list(self._writers)
        for writer in self._writers:
            writer.setFormatter(formatter)
        if root.level != logging.DEBUG:  # Dramatiq's --verbose
            root.setLevel(_LEVELS[settings.level])
        for name, level in _LEAST.items():
            logging.getLogger(name).setLevel(level)
        logging.captureWarnings(True)
        threading.excepthook = _log_uncaught
        if not console:
            # An error at any level: a program says on stderr why it ends, and so does Python.
            sys.stdout = _Printed("stdout", logging.INFO)
            sys.stderr = _Printed("stderr", logging.ERROR)
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, _to_record],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )

    def end(self) -> None:
        """Nothing waits any more: what is logged from now on is written at once."""
        for writer in self._writers:
            if isinstance(writer, LineWriter):
                writer.end()


def start(settings: LoggingSettings) -> None:
    """Shape what this process logs until it exits; for programs that are no workers."""
    atexit.register(Output(settings).end)


def _writer(handler: logging.Handler) -> logging.Handler:
    return LineWriter(handler.stream) if type(handler) is logging.StreamHandler else handler


class LineWriter(logging.Handler):
    """Writes the lines of jobs that went well in groups, and every other line at once.

    As with settlements, load makes the groups: a thread of its own writes whatever is there. All
    lines keep their order. A process that is killed loses no line but such as wait, for the
    milliseconds until that thread has its turn.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: list[str] = []
        self._wake = threading.Event()
        self._ended = False
        os.register_at_fork(after_in_child=self._begin_in_child)
        threading.Thread(target=self._run, name="headrace-log-writer", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.append(self.format(record))
            if self._may_wait(record):
                if not self._wake.is_set():
                    self._wake.set()
            else:
                self._write()
        except Exception:
            self.handleError(record)

    def _may_wait(self, record: logging.LogRecord) -> bool:
        own = record.name == JOBS and record.levelno == logging.INFO
        return own and not self._ended and len(self._waiting) < _MOST_WAITING

    def _write(self) -> None:
        # In one piece: Dramatiq's pipe carries messages, and its other end unpacks each.
        lines, self._waiting = self._waiting, []
        self._stream.write("\n".join([*lines, ""]))
        self._stream.flush()

    def flush(self) -> None:
        self.acquire()
        try:
            if self._waiting:
                self._write()
        finally:
            self.release()

    def end(self) -> None:
        """Write what waits; from now on nothing does."""
        self._ended = True
        self.flush()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                self.flush()
            except Exception:
                self._ended = True  # whoever logs next meets the error
                return

    def _begin_in_child(self) -> None:
        # What a job forks has no such thread; the lines that wait are its parent's.
        self._waiting, self._ended = [], True


class _Printed(io.TextIOBase):
    """Stands for stdout or stderr: what is printed becomes log lines."""

    def __init__(self, name: str, level: int) -> None:
        self._log = logging.getLogger(name)
        self._level = level
        self._own = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if getattr(self._own, "writing", False):
            return len(text)  # what logging says of a handler that fails, for ever
        *lines, self._own.rest = (getattr(self._own, "rest", "") + text).split("\n")
        self._own.writing = True
        try:
            for line in filter(None, lines):
                self._log.log(self._level, "%s", line)
        finally:
            self._own.writing = False
        return len(text)


def _to_record(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """structlog's last step: the standard library's record, with the fields that are allowed."""
    extra = {name: event[name] for name in FIELDS if name in event}
    known = {name: event[name] for name in ("exc_info", "stack_info") if name in event}
    return {"msg": event["event"], "extra": {"event": str(event["event"]), **extra}, **known}


def _log_uncaught(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = "?" if args.thread is None else args.thread.name
        logging.getLogger("threading").critical("Thread %s died.", name, exc_info=args.exc_value)
