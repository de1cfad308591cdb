from __future__ import annotations

from pathlib import Path

import pytest

from broker.configuration import Secret
from broker.errors import SettingsError
from broker.limits import QueueLimit
from broker.queue_settings import Backoff, QueueSettings, Rate, Retention
from broker.retention import DeadRetention
from broker.server_url import without_password
from broker.settings import Settings


def load(environ: dict[str, str] | None = None, path: Path | None = None) -> Settings:
    return Settings.load(environ or {}, path)


def written(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("env", "queue", "concurrency", "attempts"),
    [
        ("development", "notification-queue", 5, 3),
        ("development", "file-processing-queue", 2, 5),
        ("production", "notification-queue", 10, 5),
        ("production", "file-processing-queue", 5, 7),
    ],
)
def test_the_defaults_are_the_specs(env: str, queue: str, concurrency: int, attempts: int) -> None:
    settings = load({"HEADRACE_ENV": env})
    assert settings.queues[queue].concurrency == concurrency
    assert settings.queues[queue].attempts == attempts
    assert settings.concurrency[queue] == concurrency
    assert settings.concurrency.get("unheard-of") == settings.queue_defaults.concurrency


def test_an_empty_environment_is_a_local_development_one() -> None:
    settings = load()
    assert settings.redis_url == "redis://localhost:6379/0"
    assert (settings.queue_prefix, settings.env) == ("chatgenius", "development")
    assert settings.max_message_bytes == 16 * 1024 * 1024
    assert settings.queue_names["notifications"] == "notification-queue"


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"REDIS_HOST": "db", "REDIS_PORT": "7000"}, "redis://db:7000/0"),
        ({"REDIS_PASSWORD": "p@/:%"}, "redis://:p%40%2F%3A%25@localhost:6379/0"),
        ({"REDIS_USERNAME": "app", "REDIS_PASSWORD": "pw"}, "redis://app:pw@localhost:6379/0"),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0"),
        ({"REDIS_URL": "rediss://h:1/2", "REDIS_HOST": "other"}, "rediss://h:1/2"),
        ({"REDIS_URL": "unix:///run/redis.sock"}, "unix:///run/redis.sock"),
        ({"REDIS_URL": "redis://h?db=2&socket_timeout=9"}, "redis://h?db=2&socket_timeout=9"),
        ({"REDIS_URL": "", "REDIS_PASSWORD": ""}, "redis://localhost:6379/0"),
    ],
)
def test_the_server_comes_from_the_environment(environ: dict[str, str], url: str) -> None:
    assert load(environ).redis_url == url


@pytest.mark.parametrize(
    ("environ", "field"),
    [
        ({"HEADRACE_ENV": "staging"}, "HEADRACE_ENV"),
        ({"QUEUE_PREFIX": "a{b}"}, "QUEUE_PREFIX"),
        ({"QUEUE_PREFIX": "a b"}, "QUEUE_PREFIX"),
        ({"REDIS_PORT": "seven"}, "REDIS_PORT"),
        ({"REDIS_PORT": "0"}, "REDIS_PORT"),
        ({"REDIS_PORT": "65536"}, "REDIS_PORT"),
        ({"REDIS_PORT": "²"}, "REDIS_PORT"),
        ({"REDIS_HOST": "a b"}, "REDIS_HOST"),
        ({"REDIS_HOST": "user:pw@db"}, "REDIS_HOST"),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL"),
        ({"REDIS_URL": "http://localhost"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h:99999"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://[::1"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h/zero"}, "REDIS_URL"),
        ({"REDIS_URL": "unix://"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h?foo=bar"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h?socket_timeout=soon"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h?ssl_ca_certs=/ca.pem"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h?db=zero"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h?protocol=1"}, "REDIS_URL"),
        ({"REDIS_URL": "unix:///run/redis.sock?port=1"}, "REDIS_URL"),
        ({"HEADRACE_SETTINGS": "/does/not/exist.toml"}, "settings file"),
    ],
)
def test_a_bad_variable_is_named_with_value_and_rule(environ: dict[str, str], field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert caught.value.field == field
    assert caught.value.rule


@pytest.mark.parametrize(
    "url",
    [
        "http://u:sesame@h",
        "u:sesame@h",
        "sesame",
        "redis://u:sesame@h/zero",
        "redis://u:sesame@h:port",
        "redis://u:12/sesame@h",
        "redis://h/zero?password=sesame",
        "redis://u:sesame@h?foo=bar",
        "redis://h?pass=sesame",
        "redis://u:1?sesame=@h/0",
    ],
)
def test_an_error_never_shows_the_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({"REDIS_URL": url})
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_repr_never_shows_the_password() -> None:
    settings = load({"REDIS_USERNAME": "app", "REDIS_PASSWORD": "sesame"})
    assert "sesame" not in f"{settings} {settings!r}"
    assert without_password("redis://a:b@h/0") == "redis://a:***@h/0"
    assert "sesame" not in f"{Secret('sesame')} {Secret('sesame')!r}"
    assert Secret("sesame").reveal() == "sesame"


def test_an_own_file_overrides_only_what_it_says(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        max_message_bytes = 1000
        [defaults]
        attempts = 9
        [queues.notifications]
        concurrency = 7
        backoff = { delay = 5 }
        rate = { limit = 10, per = 1000 }
        [production.queues.notifications]
        global_concurrency = 40
        [queues.reports]
        remove_on_complete = true
        dead_letters = { count = 10 }
        [application.smtp]
        host = "mail"
        """,
    )
    settings = load({"HEADRACE_SETTINGS": str(path)})
    mail = settings.queues["notification-queue"]
    # The file's general table wins over the built-in one of the environment.
    assert (mail.concurrency, mail.attempts, mail.global_concurrency) == (7, 3, None)
    assert mail.backoff == Backoff(type="exponential", delay=5)
    assert mail.rate == Rate(limit=10, per=1_000)
    reports = settings.queues["reports"]
    assert (reports.attempts, reports.remove_on_complete) == (9, True)
    assert settings.queue("unheard-of").attempts == 9
    assert settings.queue("unheard-of").remove_on_complete == Retention(count=1_000, age=86_400_000)
    assert settings.max_message_bytes == 1_000
    assert settings.application == {"smtp": {"host": "mail"}}
    assert dict(settings.limits) == {"notification-queue": QueueLimit(None, 10, 1_000)}
    assert settings.dead_letters["reports"] == DeadRetention(604_800_000, 10)
    assert settings.dead_letters["unheard-of"] == DeadRetention(604_800_000)
    with pytest.raises(KeyError):
        settings.limits["unheard-of"]
    in_production = load({"HEADRACE_ENV": "production"}, path)
    assert in_production.limits["notification-queue"] == QueueLimit(40, 10, 1_000)
    assert in_production.queues["notification-queue"].global_concurrency == 40


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("retries = 1", "retries"),
        ("[queues.notifications]\nconcurency = 1", "queues.notifications.concurency"),
        ("[queues.notifications]\nconcurrency = 0", "queues.notifications.concurrency"),
        ("[queues.notifications]\nattempts = '3'", "queues.notifications.attempts"),
        ("[queues.x]\nbackoff = { type = 'linear' }", "queues.x.backoff.type"),
        ("[queues.x]\nbackoff = { delay = 0 }", "queues.x.backoff.delay"),
        ("[queues.x]\nrate = { limit = 1 }", "queues.x.rate.per"),
        ("[queues.x]\nname = 'a b'", "queues.x.name"),
        ("[queues.x]\nname = 'notification-queue'", "queues.x.name"),
        ("[queues.x]\nremove_on_fail = { days = 1 }", "queues.x.remove_on_fail.days"),
        ("[queues.x]\ndead_letters = { age = 0 }", "queues.x.dead_letters.age"),
        ("[queues.x]\ndead_letters = { days = 7 }", "queues.x.dead_letters.days"),
        ("[production.queues.x]\nattempts = 0", "production.queues.x.attempts"),
        ("[production]\nmonitoring = 1", "monitoring"),
        ("[defaults]\nname = 'x'", "defaults.name"),
        ("max_message_bytes = 0", "max_message_bytes"),
        ("[notifications]\ninterval = 1", "notifications.interval"),
        ("[notifications]\nsms = 1", "notifications.sms"),
        ("[notifications]\nemail = { to = [] }", "notifications.email.to"),
        ("[notifications]\nemail = { to = ['a b@c'] }", "notifications.email.to[0]"),
        ("[notifications]\nwebhook = { url = 'ftp://x' }", "notifications.webhook.url"),
        ("[recycling]\nmax_jobs = 0", "recycling.max_jobs"),
        ("[recycling]\nmax_memory = 1", "recycling.max_memory"),
        ("[recycling]\nmax_threads = 1", "recycling.max_threads"),
        ("[logging]\nlevel = 'loud'", "logging.level"),
        ("[logging]\nformat = 'json'\ncolour = true", "logging.colour"),
        ("[development.logging]\nformat = 'xml'", "logging.format"),
        ("max_message_bytes = ", "settings file"),
    ],
)
def test_a_bad_setting_in_a_file_is_named(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(path=written(tmp_path, text))
    assert caught.value.field.endswith(field)
    assert str(caught.value).startswith(caught.value.field)


def test_a_webhooks_address_is_never_shown(tmp_path: Path) -> None:
    path = written(tmp_path, "[notifications]\nwebhook = { url = 'htp://hook/secret' }")
    with pytest.raises(SettingsError) as caught:
        load(path=path)
    assert "secret" not in str(caught.value)
    given = load({"NOTIFICATIONS_WEBHOOK_URL": "https://hook/secret"}).notifications
    assert given.webhook is not None
    assert given.webhook.url.reveal() == "https://hook/secret"
    assert "secret" not in repr(given)


def test_a_misspelt_setting_gets_a_suggestion(tmp_path: Path) -> None:
    path = written(tmp_path, "[queues.notifications]\nconcurency = 1")
    with pytest.raises(SettingsError, match="did you mean 'concurrency'"):
        load(path=path)


def test_settings_are_frozen() -> None:
    settings = load()
    with pytest.raises(AttributeError):
        settings.env = "production"  # type: ignore[misc]
    assert isinstance(settings.queue_defaults, QueueSettings)


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss\n")
    named = {"REDIS_HOST": "db", "REDIS_PASSWORD_FILE": str(secret)}
    assert load(named).redis_url == "redis://:p%40ss@db:6379/0"
    assert load(named | {"REDIS_PASSWORD": "own"}).redis_url == "redis://:own@db:6379/0"


def test_a_secrets_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "password")
    with pytest.raises(SettingsError, match="REDIS_PASSWORD_FILE.*No such file"):
        load({"REDIS_PASSWORD_FILE": missing})
