"""Passwords as they are kept: by scrypt, each with a salt of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

# OWASP's Password Storage Cheat Sheet: one of its equivalent choices, 32 MiB a try.
_N, _R, _P = 1 << 15, 8, 3
_MOST_MEMORY: Final = 256 * 1024 * 1024
_SALT_BYTES, _KEY_BYTES = 16, 32
_SCHEME: Final = "scrypt"


def hashed(password: str) -> str:
    """The password as a file of users has it: ``scrypt$n$r$p$salt$key``, the last two in base64."""
    salt = secrets.token_bytes(_SALT_BYTES)
    key = _derived(password, _N, _R, _P, salt)
    parts = (base64.b64encode(part).decode() for part in (salt, key))
    return "$".join((_SCHEME, str(_N), str(_R), str(_P), *parts))


def check_hash(kept: str) -> None:
    """Raise ValueError unless it is what :func:`hashed` makes, at the cost it asks at the least."""
    n, r, p, salt, key = _read(kept)
    if n < _N or n & (n - 1) or r < 1 or p < 1 or 128 * n * r > _MOST_MEMORY // 2:
        raise ValueError(f"n must be a power of two of at least {_N}, with memory for n and r")
    if len(salt) < _SALT_BYTES or len(key) < _KEY_BYTES:
        raise ValueError("salt or key is too short")


def matches(password: str, kept: str) -> bool:
    """Whether it is this password; takes as long for a wrong one."""
    n, r, p, salt, key = _read(kept)
    return hmac.compare_digest(_derived(password, n, r, p, salt), key)


def _read(kept: str) -> tuple[int, int, int, bytes, bytes]:
    scheme, *parts = kept.split("$")
    if scheme != _SCHEME or len(parts) != 5:
        raise ValueError("must be scrypt$n$r$p$salt$key")
    n, r, p = map(int, parts[:3])
    salt, key = (base64.b64decode(part, validate=True) for part in parts[3:])
    return n, r, p, salt, key


def _derived(password: str, n: int, r: int, p: int, salt: bytes) -> bytes:
    secret = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=_KEY_BYTES)
