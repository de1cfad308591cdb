"""What is collected for one mail: each item once, dropped when it was sent."""

from __future__ import annotations

import pytest
import redis

from actors.digest import Digest, send_digest
from actors.preferences import Preference, Preferences
from broker import StreamsBroker
from middleware.payload import RuleBroken


@pytest.fixture
def digest(application_broker: StreamsBroker) -> Digest:
    return Digest(application_broker.client, application_broker.namespace, "u1")


def test_items_are_read_in_order_each_once_and_dropped_up_to_the_last(digest: Digest) -> None:
    first, waited_ms = digest.add("m1", "One", "1")
    assert waited_ms == 0
    for message_id in ("m2", "m2", "m3"):
        oldest, waited_ms = digest.add(message_id, message_id, "")
        assert oldest == first
        assert waited_ms >= 0
    items = digest.read()
    assert [item.message_id for item in items] == ["m1", "m2", "m3"]
    digest.drop(items[:2])
    assert [item.message_id for item in digest.read()] == ["m3"]
    digest.drop([])
    digest.forget()
    assert digest.read() == []


def test_what_is_added_while_a_digest_is_sent_gets_one_of_its_own(
    application_broker: StreamsBroker, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = application_broker
    preferences = Preferences(broker.client, broker.namespace)
    preferences.put({"u1": Preference(channel="digest", email="u1@users.example")})
    digest.add("m1", "One", "1")
    sent: list[str] = []

    def send(_settings: object, content: object, _message_id: str) -> None:
        sent.append(content.subject)  # type: ignore[attr-defined]
        digest.add("m2", "Two", "2")

    monkeypatch.setattr("actors.digest.send_mail", send)
    send_digest("u1")
    assert sent == ["One"]
    assert [item.message_id for item in digest.read()] == ["m2"]
    assert broker.inspector.queue("notification-queue").scheduled == 1


def test_a_user_without_an_address_gets_nothing_and_nothing_stays(
    application_broker: StreamsBroker, digest: Digest
) -> None:
    digest.add("m1", "One", "1")
    send_digest("u1")
    assert digest.read() == []


def test_preferences_are_kept_by_user(application_broker: StreamsBroker) -> None:
    client: redis.Redis = application_broker.client
    preferences = Preferences(client, application_broker.namespace)
    wanted = Preference(channel="email", email="u1@users.example")
    preferences.put({"u1": wanted, "u2": Preference(channel="none")})
    assert preferences.get("u1") == wanted
    assert preferences.get("u3") == Preference(channel="in-app")
    preferences.forget("u1")
    assert preferences.get("u1") == Preference()


@pytest.mark.parametrize("bad", [{"channel": "email"}, {"channel": "digest", "email": "nobody"}])
def test_a_preference_without_a_way_to_follow_it_is_refused(
    application_broker: StreamsBroker, bad: dict[str, str]
) -> None:
    preferences = Preferences(application_broker.client, application_broker.namespace)
    with pytest.raises(RuleBroken):
        preferences.put({"u1": Preference(), "u2": Preference(**bad)})  # type: ignore[arg-type]
    assert preferences.get("u1") == Preference()
    assert application_broker.client.exists(f"{{{application_broker.namespace}}}:preferences") == 0
