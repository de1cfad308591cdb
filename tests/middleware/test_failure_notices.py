"""Who is told of failures, how often, and what survives a process."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import CurrentMessage, Retries
from redis.backoff import NoBackoff
from redis.retry import Retry

from actors.mail import deliver
from actors.notices import notice_channels
from actors.settings import SmtpSettings
from broker import StreamsBroker
from broker.configuration import Secret
from broker.embedded import EmbeddedValkey
from broker.failures import FailureKind
from broker.keys import notices_key
from broker.notification_settings import EmailNotices, NotificationSettings, WebhookNotices
from middleware import failure_notices
from middleware.failure_notices import FailureNotices, Notifier
from middleware.notice import Notice
from middleware.notice_channels import ActorChannel, Channel, EmailChannel, WebhookChannel
from tests.actors.servers import Answer, MailServer, PushGateway
from tests.conftest import NewBroker, StartWorker
from tests.contract.recording import Seen
from tests.waiting import PATIENCE_S, eventually

CANARY = "canary-7f3a"
QUEUE = "work"
INTERVAL_MS = 60_000


class Kept:
    """A channel that keeps the notices, and fails as long as it is told to."""

    name = "kept"

    def __init__(self) -> None:
        self.seen = Seen()
        self.fails = False

    def send(self, broker: Any, notice: Notice) -> None:
        self.seen.add(notice)
        if self.fails:
            raise OSError(CANARY)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def gateway() -> Iterator[PushGateway]:
    with PushGateway() as server:
        yield server


@pytest.fixture
def new(valkey_server: EmbeddedValkey, new_broker: NewBroker) -> Callable[..., StreamsBroker]:
    """Brokers whose workers tell by these channels."""

    def make(*channels: Channel, interval_ms: int = INTERVAL_MS) -> StreamsBroker:
        notices = FailureNotices(channels, interval_ms=interval_ms)
        made = new_broker(
            "streams",
            valkey_server.url,
            middleware=[notices, CurrentMessage(), Retries(max_retries=0)],
        )
        assert isinstance(made, StreamsBroker)
        return made

    return make


def failing(queue: str = QUEUE) -> dramatiq.Actor[Any, Any]:
    @dramatiq.actor(queue_name=queue, actor_name=f"fail_on_{queue}")
    def fail(label: str) -> None:
        raise ValueError(label)

    return fail


def next_turn(broker: StreamsBroker) -> None:
    """As if the interval were over."""
    broker.client.delete(notices_key(broker.namespace))


def tallied(broker: StreamsBroker) -> int:
    return sum(broker.commands.tallied(QUEUE).values())


def test_the_first_failure_is_told_at_once_and_the_rest_wait_for_the_interval(
    new: Callable[..., StreamsBroker], kept: Kept, start_worker: StartWorker
) -> None:
    broker = new(kept)
    fail = failing()
    start_worker(broker)
    fail.send(CANARY)
    first = kept.seen.next(5)
    assert first.total == 1
    (row,) = first.failures
    assert (row.queue, row.actor, row.reason, row.error_type, row.count) == (
        *(QUEUE, "fail_on_work", "retries_exhausted", "ValueError"),
        1,
    )
    for _ in range(50):
        fail.send(CANARY)
    eventually(lambda: broker.inspector.queue(QUEUE).dead, lambda dead: dead == 51)
    assert kept.seen.nothing_more()
    next_turn(broker)
    Notifier(broker, [kept], interval_ms=INTERVAL_MS).look()
    assert kept.seen.next().total == 50


def test_ten_thousand_dead_letters_are_one_notice_whoever_looks(
    new: Callable[..., StreamsBroker], kept: Kept, start_worker: StartWorker
) -> None:
    broker = new()
    fail = failing()
    worker = start_worker(broker)
    fail.send(CANARY)
    eventually(lambda: broker.inspector.queue(QUEUE).dead, lambda dead: dead == 1)
    worker.stop()
    keys = broker.commands.keys(QUEUE)
    ((_, letter),) = broker.client.hgetall(keys.dead_messages).items()
    with broker.client.pipeline(transaction=False) as pipe:
        for start in range(0, 9_999, 1_111):
            ids = [f"letter-{n}" for n in range(start, start + 1_111)]
            pipe.hset(keys.dead_messages, mapping=dict.fromkeys(ids, letter))
            pipe.zadd(keys.dead, {id: n + 1 for n, id in enumerate(ids, start)})
        pipe.execute()
    looking = [Notifier(broker, [kept], interval_ms=INTERVAL_MS) for _ in range(3)]
    for notifier in looking:
        notifier.look()
    notice = kept.seen.next()
    assert (notice.total, len(notice.failures), notice.others) == (10_000, 1, 0)
    assert "10,000 failures" in notice.subject
    assert CANARY not in str(notice.asdict())
    assert kept.seen.nothing_more()
    assert tallied(broker) == 0


def test_a_process_that_dies_before_it_has_told_loses_no_count(
    new: Callable[..., StreamsBroker], kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Died

    broker = new()
    broker.commands.register(QUEUE)
    kind = FailureKind("retries_exhausted", "fail", "ValueError")
    broker.commands.count_failures(QUEUE, {kind: 7})
    dying = Notifier(broker, [kept], interval_ms=INTERVAL_MS)
    with monkeypatch.context() as patched:
        patched.setattr(kept, "send", die)
        with pytest.raises(Died):
            dying.look()
    other = Notifier(broker, [kept], interval_ms=INTERVAL_MS)
    other.look()
    assert kept.seen.nothing_more()  # it may still be sending
    next_turn(broker)
    other.look()
    assert kept.seen.next().total == 7


def test_a_notice_that_nobody_took_is_sent_again_and_its_error_is_not_shown(
    new: Callable[..., StreamsBroker], kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    broker = new()
    broker.commands.register(QUEUE)
    broker.commands.count_failures(QUEUE, {FailureKind("x", "", ""): 2})
    notifier = Notifier(broker, [kept], interval_ms=INTERVAL_MS)
    kept.fails = True
    assert notifier.look() == failure_notices.LOOK_EVERY_S
    assert kept.seen.next().total == 2
    assert "could not be sent by kept: OSError" in caplog.text
    assert CANARY not in caplog.text
    kept.fails = False
    next_turn(broker)
    broker.commands.count_failures(QUEUE, {FailureKind("x", "", ""): 1})
    notifier.look()
    assert kept.seen.next().total == 3


def test_who_has_lost_the_turn_takes_nothing_off_the_counts(
    new: Callable[..., StreamsBroker], kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = new()
    broker.commands.register(QUEUE)
    broker.commands.count_failures(QUEUE, {FailureKind("x", "", ""): 2})

    def lose_the_turn(*_: Any) -> None:
        next_turn(broker)
        assert broker.commands.take_turn("another", 60_000, 60_000) == 0

    monkeypatch.setattr(kept, "send", lose_the_turn)
    Notifier(broker, [kept], interval_ms=INTERVAL_MS).look()
    assert tallied(broker) == 2


def test_errors_of_queues_are_told_with_the_dead_letters(
    new: Callable[..., StreamsBroker], kept: Kept
) -> None:
    broker = new()
    notifier = Notifier(broker, [kept], interval_ms=INTERVAL_MS)
    log = logging.getLogger("dramatiq.worker.ConsumerThread(work)")
    logging.getLogger().addHandler(notifier.errors)
    for _ in range(3):
        log.critical("Consumer encountered a connection error: %s", ConnectionError(CANARY))
    logging.getLogger("broker.settler.Settler").error("gone", extra={"queueName": "mail"})
    logging.getLogger("broker.keeper.Keeper").critical("dead")
    logging.getLogger("broker.consumer.StreamsConsumer").error("a burial, told as dead letter")
    logging.getLogger("elsewhere").error("no queue's")
    logging.getLogger("broker.keeper.Keeper").warning("a lease")
    logging.getLogger().removeHandler(notifier.errors)
    for queue in (QUEUE, "mail"):
        broker.commands.register(queue)
    notifier.look()
    notice = kept.seen.next()
    assert {(row.queue, row.reason, row.error_type, row.count) for row in notice.failures} == {
        (QUEUE, "queue_error", "ConnectionError", 3),
        ("mail", "queue_error", "Settler", 1),
        ("", "queue_error", "Keeper", 1),
    }
    assert CANARY not in str(notice.asdict())


@pytest.fixture
def unreachable() -> StreamsBroker:
    """A broker whose server is away."""
    client = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    return StreamsBroker(client=client, namespace="nowhere", middleware=[])


def test_errors_that_can_not_be_written_are_kept(unreachable: StreamsBroker, kept: Kept) -> None:
    notifier = Notifier(unreachable, [kept], interval_ms=INTERVAL_MS)
    counts = Counter({(QUEUE, FailureKind("queue_error", "", "Settler")): 2})
    notifier.errors.put_back(counts)
    with pytest.raises(BrokerConnectionError):
        notifier.look()
    assert notifier.errors.take() == counts


def test_without_its_server_a_process_speaks_for_itself(
    unreachable: StreamsBroker, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_notices, "ALONE_AFTER_S", 0.0)
    notifier = Notifier(unreachable, [kept], interval_ms=INTERVAL_MS)
    notifier.start()
    logging.getLogger("broker.settler.Settler").error("gone", extra={"queueName": QUEUE})
    notice = kept.seen.next()
    notifier.stop()
    assert [row.queue for row in notice.failures] == [QUEUE]


def test_a_mail_a_post_and_a_job_carry_the_counts_and_no_payload(
    new: Callable[..., StreamsBroker],
    mail_server: MailServer,
    gateway: PushGateway,
    start_worker: StartWorker,
) -> None:
    smtp = SmtpSettings(host="127.0.0.1", port=mail_server.port)
    settings = NotificationSettings(
        email=EmailNotices(to=["ops@example.org", "boss@example.org"]),
        webhook=WebhookNotices(url=Secret(gateway.url), token=Secret("token-1")),
        actor="told",
    )
    broker = new(*notice_channels(settings, smtp))
    told = Seen()

    @dramatiq.actor(actor_name="told", queue_name="operators")
    def tell(notice: dict[str, Any]) -> None:
        told.add(notice)

    fail = failing()
    start_worker(broker)
    fail.send(CANARY)

    mail = mail_server.next_mail()
    assert mail["Subject"] == f"[{broker.namespace}] 1 failure"
    assert mail["To"] == "ops@example.org, boss@example.org"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "1  work  retries_exhausted  fail_on_work  ValueError" in mail.get_content()
    posted = gateway.next_post()
    assert posted.headers["Authorization"] == "Bearer token-1"
    assert posted.body["total"] == 1
    assert posted.body["failures"][0]["errorType"] == "ValueError"
    assert posted.headers["Idempotency-Key"] == posted.body["id"]
    assert posted.body["id"] in mail["Message-ID"]
    assert told.next() == posted.body
    assert CANARY not in mail.as_string() + str(posted)
    assert mail_server.empty


def test_one_channel_that_fails_holds_up_no_other(
    new: Callable[..., StreamsBroker],
    gateway: PushGateway,
    kept: Kept,
    caplog: pytest.LogCaptureFixture,
) -> None:
    webhook = WebhookChannel(WebhookNotices(url=Secret(gateway.url)))
    mail = EmailChannel(
        partial(deliver, SmtpSettings(host="127.0.0.1", port=1)), sender="a@b.c", to=["d@e.f"]
    )
    broker = new()
    broker.commands.register(QUEUE)
    broker.commands.count_failures(QUEUE, {FailureKind("x", "", ""): 2})
    gateway.answers.append(Answer(500))
    channels: list[Channel] = [webhook, mail, ActorChannel("nobody"), kept]
    Notifier(broker, channels, interval_ms=INTERVAL_MS).look()
    assert kept.seen.next().total == 2
    assert tallied(broker) == 0
    for expected in ("webhook: HTTPStatusError", "email: ConnectionRefusedError", "actor: Actor"):
        assert expected in caplog.text
    assert gateway.url not in caplog.text


def test_a_long_notice_is_cut() -> None:
    counts = {QUEUE: {FailureKind(f"r{n}", "", ""): n for n in range(1, 201)}}
    notice = Notice.of("ns", counts)
    assert len(notice.failures) == 50
    assert notice.failures[0].count == 200
    assert notice.total == sum(range(201))
    assert notice.others == sum(range(151))
    assert notice.text.splitlines()[-1].split() == ["11,325", "of", "other", "kinds"]


def test_burials_that_nobody_saw_are_found_by_a_look(
    new: Callable[..., StreamsBroker],
    kept: Kept,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failure_notices, "LOOK_EVERY_S", 0.05)
    broker = new(kept)
    start_worker(broker)
    broker.commands.register(QUEUE)
    keys = broker.commands.keys(QUEUE)
    broker.client.hset(keys.dead_messages, "m", b"\x92\xa6reason\xaemax_deliveries")
    broker.client.zadd(keys.dead, {"m": 1})
    assert kept.seen.next(PATIENCE_S).failures[0].reason == "max_deliveries"
