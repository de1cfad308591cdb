"""The application's jobs, and the door of ``dramatiq actors``.

Every module of this package is imported, so a new job type is one new file here.
"""

from __future__ import annotations

import importlib
import pkgutil

from actors.app import broker

__all__ = ["broker"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.endswith(("__main__", "_command")):  # those are programs
        importlib.import_module(f"{__name__}.{_module.name}")
