"""The application's jobs, and the door of ``dramatiq actors``.

Every module of this package is imported, so a new job type is one new file here.
"""

from __future__ import annotations

import importlib
import pkgutil

from actors.app import broker

__all__ = ["broker"]

for _module in pkgutil.iter_modules(__path__):
    if _module.name != "__main__":  # that one is a program, `make run`
        importlib.import_module(f"{__name__}.{_module.name}")
