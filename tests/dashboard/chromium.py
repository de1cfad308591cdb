"""The distribution's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import sync_playwright

from broker import StreamsBroker
from dashboard.serving import Server
from dashboard.settings import DashboardSettings

#: Set to 1 where a missing browser must fail the run instead of skipping a part of it.
REQUIRE_CHROMIUM = "HEADRACE_REQUIRE_CHROMIUM"


@contextmanager
def launched() -> Iterator[Chromium]:
    """The browser; skips the calling test, or fails it, where none is installed."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get(REQUIRE_CHROMIUM) == "1":
            pytest.fail("chromium is not installed, and this run requires it")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        # Containers lack what its sandbox needs; it sees only this test's pages.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(broker: StreamsBroker, environ: dict[str, str]) -> Iterator[tuple[Server, str]]:
    """The dashboard behind its own server, on a free port of this machine."""
    server = Server(broker, DashboardSettings.load(environ | {"HEADRACE_DASHBOARD_PORT": "0"}))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server, server.url.replace("127.0.0.1", "localhost").rstrip("/")
    finally:
        server.close()
        thread.join(10)
