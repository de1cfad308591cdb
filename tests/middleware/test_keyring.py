"""Key rings from variables and files, and what is said of a wrong one."""

from __future__ import annotations

import base64
import copy
import pickle
from pathlib import Path

import pytest

from broker.errors import SettingsError
from middleware.key_wrapping import LocalKeyWrapper, UnwrapFailed
from middleware.keyring import Key, KeyRing, new_key

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_the_first_key_of_a_variable_is_active() -> None:
    ring = KeyRing.from_text(f"new:{NEW}, old:{OLD}")
    assert (ring.active.id, [key.id for key in ring], len(ring)) == ("new", ["new", "old"], 2)


def test_another_key_may_be_active_so_that_readers_come_first() -> None:
    assert KeyRing.from_text(f"new:{NEW}\nold:{OLD}", active="old").active.id == "old"


def test_a_file_names_its_active_key(tmp_path: Path) -> None:
    path = key_file(tmp_path, f'active = "old"\n[keys]\nnew = "{NEW}"\nold = "{OLD}"\n')
    assert KeyRing.from_file(path).active.id == "old"
    assert KeyRing.from_file(path, active="new").active.id == "new"
    assert KeyRing.from_file(path).get("new") == Key("new", bytes([2]) * 32)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602, 0o777], ids=oct)
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, f'active = "old"\n[keys]\nold = "{OLD}"\n', mode)
    with pytest.raises(SettingsError, match="chmod 600") as refusal:
        KeyRing.from_file(path)
    assert f"{mode:04o}" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "ID:BASE64"),
        (NEW, "ID:BASE64"),
        ("new:@@@", "must be base64"),
        ("new:c2hvcnQ=", "32 bytes"),
        (f"ä:{NEW}", "letters, digits"),
        (f"{'n' * 33}:{NEW}", "1 to 32"),
        (f"new:{NEW},new:{OLD}", "names two keys"),
        (f"new:wrapped:{NEW}", "nothing here can unwrap it"),
    ],
)
def test_a_wrong_variable_is_refused_without_its_keys(text: str, rule: str) -> None:
    with pytest.raises(SettingsError, match=rule) as refusal:
        KeyRing.from_text(text)
    assert NEW not in str(refusal.value)
    assert OLD not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('active = "new"\n', r"\[keys\]"),
        (f'[keys]\nnew = "{NEW}"\n', "name the active key"),
        (f'active = "old"\n[keys]\nnew = "{NEW}"\n', "one of the keys: new"),
        (f'active = "new"\ncolour = 1\n[keys]\nnew = "{NEW}"\n', "nothing else"),
        ('active = "new"\n[keys]\nnew = 7\n', "must be a text"),
        (f'active = "new"\n[keys]\nnew = "{NEW}\n', "is no TOML"),
    ],
)
def test_a_wrong_file_is_refused_without_its_keys(tmp_path: Path, text: str, rule: str) -> None:
    with pytest.raises(SettingsError, match=rule) as refusal:
        KeyRing.from_file(key_file(tmp_path, text))
    assert NEW not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        KeyRing.from_file(tmp_path / "keys.toml")


def test_a_key_is_never_shown_nor_pickled() -> None:
    ring = KeyRing.from_text(f"new:{NEW}")
    shown = f"{ring} {ring!r} {ring.active} {ring.active!r} {vars(ring)}"
    assert NEW not in shown
    assert repr(bytes([2]) * 32) not in shown
    for steal in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            steal(ring)


def test_new_keys_differ_and_fit() -> None:
    made = {new_key() for _ in range(20)}
    assert len(made) == 20
    assert len(KeyRing.from_text(",".join(f"k{n}:{key}" for n, key in enumerate(made)))) == 20


def test_a_wrapped_key_opens_by_its_wrapper_alone() -> None:
    wrapper = LocalKeyWrapper(bytes(32))
    text = f"new:{new_key(wrapper)}"
    assert text.startswith("new:wrapped:")
    assert (
        KeyRing.from_text(text, wrapper=wrapper).active
        == KeyRing.from_text(text, wrapper=LocalKeyWrapper(bytes(32))).active
    )
    with pytest.raises(SettingsError, match="another key, or changed") as refusal:
        KeyRing.from_text(text, wrapper=LocalKeyWrapper(bytes([1]) * 32))
    assert text not in str(refusal.value)


def test_a_changed_wrapped_key_is_noticed() -> None:
    wrapper = LocalKeyWrapper(bytes(32))
    wrapped = bytearray(wrapper.wrap(bytes(32)))
    wrapped[-1] ^= 1
    for changed in (bytes(wrapped), b"", bytes(7)):
        with pytest.raises(UnwrapFailed):
            wrapper.unwrap(changed)


def test_a_key_encryption_key_has_32_bytes() -> None:
    with pytest.raises(SettingsError, match="32 bytes"):
        LocalKeyWrapper(bytes(16))
