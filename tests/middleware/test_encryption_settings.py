"""Which jobs are encrypted, and by which keys, as the one file and the environment say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.errors import SettingsError
from broker.settings import Settings
from middleware.encryption import Encryption
from middleware.key_wrapping import LocalKeyWrapper
from middleware.keyring import KeyRing, new_key
from middleware.stack import stack

KEY = new_key()
KEK = new_key()


def load(folder: Path, table: str = "", **environ: str) -> Settings:
    path = folder / "settings.toml"
    path.write_text(table, encoding="utf-8")
    return Settings.load(environ, path)


def encryptions(settings: Settings) -> list[Any]:
    return [each for each in stack(settings) if isinstance(each, Encryption)]


def test_without_keys_nothing_is_encrypted(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert encryptions(settings) == []
    assert KeyRing.from_settings(settings.encryption) is None


def test_keys_of_a_variable(tmp_path: Path) -> None:
    settings = load(
        tmp_path, "[encryption]\ndefault = true\nrequire = true\n", HEADRACE_KEYS=f"k1:{KEY}"
    )
    assert (settings.encryption.default, settings.encryption.require) == (True, True)
    (made,) = encryptions(settings)
    assert stack(settings)[0].__class__ is Encryption
    assert made.refuses_clear("any")
    assert KEY not in f"{settings!r} {settings.encryption!r} {vars(made)}"


def test_keys_of_a_file_and_another_active_one(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'active = "k1"\n[keys]\nk1 = "{KEY}"\nk2 = "{new_key()}"\n')
    keys.chmod(0o600)
    table = f'[production.encryption]\nkey_file = "{keys}"\n'
    settings = load(tmp_path, table, HEADRACE_ENV="production", HEADRACE_ACTIVE_KEY="k2")
    ring = KeyRing.from_settings(settings.encryption)
    assert ring is not None
    assert ring.active.id == "k2"
    assert load(tmp_path, table).encryption.key_file is None  # in development


def test_wrapped_keys(tmp_path: Path) -> None:
    wrapped = new_key(LocalKeyWrapper.from_text(KEK))
    settings = load(tmp_path, HEADRACE_KEYS=f"k1:{wrapped}", HEADRACE_KEY_ENCRYPTION_KEY=KEK)
    assert len(encryptions(settings)) == 1


@pytest.mark.parametrize(
    ("table", "environ", "named"),
    [
        (f'[encryption]\nkeys = "k1:{KEY}"\n', {}, "HEADRACE_KEYS"),
        (f'[encryption]\nkey_encryption_key = "{KEK}"\n', {}, "HEADRACE_KEY_ENCRYPTION_KEY"),
        ("[encryption]\ndefault = true\n", {}, "encryption.default"),
        ("[encryption]\nrequire = true\n", {}, "encryption.require"),
        ("[encryption]\nrequired = true\n", {}, "encryption.required"),
        ("[encryption]\ndefault = 1\n", {}, "encryption.default"),
        ("", {"HEADRACE_KEYS": f"k1:{KEY}", "HEADRACE_KEY_FILE": "x"}, "HEADRACE_KEYS"),
    ],
    ids=[
        "keys in the file",
        "key of the keys in the file",
        "default without keys",
        "require without keys",
        "unknown",
        "no boolean",
        "keys twice",
    ],
)
def test_a_wrong_setting_is_named_and_no_key_shown(
    tmp_path: Path, table: str, environ: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError, match=named) as refusal:
        load(tmp_path, table, **environ)
    assert KEY not in str(refusal.value)
    assert KEK not in str(refusal.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"HEADRACE_KEYS": f"k1:{KEY}", "HEADRACE_ACTIVE_KEY": "k2"},
        {"HEADRACE_KEYS": "k1:wrong"},
        {"HEADRACE_KEY_FILE": "/nowhere/keys.toml"},
        {"HEADRACE_KEYS": f"k1:{KEY}", "HEADRACE_KEY_ENCRYPTION_KEY": "short"},
    ],
    ids=["active", "base64", "file", "kek"],
)
def test_keys_that_can_not_be_read_stop_the_process(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with pytest.raises(SettingsError) as refusal:
        stack(load(tmp_path, **environ))
    assert KEY not in str(refusal.value)
