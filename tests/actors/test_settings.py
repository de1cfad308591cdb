from __future__ import annotations

from typing import Any

import pytest

from actors.settings import ApplicationSettings
from broker.errors import SettingsError

LOGIN = {"SMTP_USERNAME": "app", "SMTP_PASSWORD": "sesame", "SMTP_TLS": "starttls"}


def load(environ: dict[str, str], **table: Any) -> ApplicationSettings:
    return ApplicationSettings.load(environ, table)


def test_a_variable_wins_over_the_table_and_the_table_over_the_default() -> None:
    settings = load({"SMTP_PORT": "2525"}, smtp={"port": 1, "host": "mail"})
    assert (settings.smtp.host, settings.smtp.port) == ("mail", 2525)
    assert settings.inbox.length == 1_000


@pytest.mark.parametrize(
    ("environ", "field"),
    [
        ({"SMTP_PORT": "no"}, "SMTP_PORT"),
        ({"SMTP_PORT": "0"}, "SMTP_PORT"),
        ({"SMTP_TLS": "yes"}, "SMTP_TLS"),
        ({"SMTP_FROM": "a@b\nBcc: c@d"}, "SMTP_FROM"),
        ({"SMTP_TIMEOUT_S": "0"}, "SMTP_TIMEOUT_S"),
        ({"SMTP_TIMEOUT_S": "nan"}, "SMTP_TIMEOUT_S"),
        ({"PUSH_GATEWAY_URL": "ftp://x"}, "PUSH_GATEWAY_URL"),
        ({"IMAGE_MAX_PIXELS": "-1"}, "IMAGE_MAX_PIXELS"),
        ({"INBOX_LENGTH": "0"}, "INBOX_LENGTH"),
        ({"SMTP_USERNAME": "app"}, "SMTP_PASSWORD"),
        ({**LOGIN, "SMTP_TLS": "none"}, "SMTP_TLS"),
    ],
)
def test_a_bad_variable_is_named(environ: dict[str, str], field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert caught.value.field == field


def test_an_unknown_key_of_the_table_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, smtp={"hots": "mail"})
    assert caught.value.field == "application.smtp.hots"


def test_secrets_are_not_shown() -> None:
    settings = load(
        {
            **LOGIN,
            "PUSH_GATEWAY_TOKEN": "sesame",
            "PUSH_GATEWAY_URL": "https://u:sesame@push.example/x?key=sesame",
            "STORAGE_URL": "s3://id:sesame@bucket/folder",
        }
    )
    assert "sesame" not in repr(settings)
    assert settings.smtp.password is not None
    assert settings.smtp.password.reveal() == "sesame"


def test_a_secret_is_not_shown_in_an_error_either() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"PUSH_GATEWAY_URL": "sesame"})
    assert "sesame" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        load({}, smtp={"password": ["sesame"]})
    assert "sesame" not in str(caught.value)
