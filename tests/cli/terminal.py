"""A program at a terminal of its own, as a person has it: keys in, what the screen was sent out."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.waiting import PATIENCE_S


class Terminal:
    """What runs there, and everything that it has written."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self._process = process
        self._side = side
        self.shown = ""

    def press(self, keys: str) -> None:
        os.write(self._side, keys.encode())

    def until(self, text: str | re.Pattern[str]) -> str:
        """Wait until the text, or what fits the pattern, is shown; what was shown with it.

        Raises:
          AssertionError: it is not within the patience of a test, or the program has ended.
        """
        since = len(self.shown)
        deadline = time.monotonic() + PATIENCE_S
        wanted = re.compile(re.escape(text)) if isinstance(text, str) else text
        while not wanted.search(self.shown, since):
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown: {self.shown[since:]!r}"
            assert self._read(left), f"it ended without {text!r}: {self.shown[since:]!r}"
        return self.shown[since:]

    def ended(self) -> int:
        """Wait for the program's end; its exit status."""
        while self._read(PATIENCE_S):
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._side], [], [], timeout_s)[0]:
            return True
        try:
            found = os.read(self._side, 65_536)
        except OSError:  # the other side is closed
            return False
        self.shown += found.decode("utf-8", "replace")
        return bool(found)


@contextmanager
def at_terminal(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a command at a terminal of 120 columns; it is killed if it has not ended by then."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x28\x00\x78\x00\x00\x00\x00\x00")
    process = subprocess.Popen(
        command,
        env={**os.environ, "TERM": "xterm", **environ},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        os.close(ours)
