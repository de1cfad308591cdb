"""A queue with jobs in every state, as the real browser and the screenshots see it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import dramatiq
import msgspec
from dramatiq import Actor, Message, Worker

from broker import StreamsBroker, current_job
from broker.outcome import Bury
from broker.settlement import Settlement
from middleware.flows import Flows
from pipelines import flows
from pipelines.flow import Flow
from tests.conftest import STOP_TIMEOUT_MS, WORKER_TIMEOUT_MS
from tests.waiting import eventually, wait_for

MAIL = "notification-queue"
FILES = "file-processing-queue"


class Notification(msgspec.Struct, rename="camel"):
    """What `send_notification` takes."""

    user_id: str
    type: Literal["email", "push", "in_app"]
    title: str
    body: str = ""
    urgent: bool = False


class MailRefused(Exception):
    pass


class GatewayAway(Exception):
    pass


class _Typed(Actor[..., Any]):
    payload_type = Notification


@dataclass
class Scene:
    """What the tests name of it."""

    broker: StreamsBroker
    dead: Message[Any]
    waiting: Message[Any]
    running: Message[Any]
    flow_id: str
    send: Actor[..., Any]


@contextmanager
def working(broker: StreamsBroker, *, threads: int, queues: set[str]) -> Iterator[None]:
    """A worker of these queues."""
    worker = Worker(broker, queues=queues, worker_threads=threads, worker_timeout=WORKER_TIMEOUT_MS)
    worker.start()
    try:
        yield
    finally:
        worker.stop(timeout=STOP_TIMEOUT_MS)


def buried(broker: StreamsBroker, queue: str, errors: Sequence[str]) -> None:
    """Dead letters as a worker leaves them, one for each error and quicker than by one."""
    broker.enqueue_many(Message(queue, "post", (), {}, {}) for _ in errors)
    left = list(errors)
    while left:
        fetched = broker.commands.fetch(
            queue, "tester", 200, lowest_first=False, suspects=1, taken=(), signals=()
        )
        settlements = [
            Settlement(
                handed.lease,
                handed.field(b"id").decode(),
                "",
                Bury("retries_exhausted", error=left.pop(), actor="post", error_type="Refused"),
            )
            for handed in fetched.deliveries
        ]
        broker.commands.settle(queue, settlements)


@contextmanager
def played(broker: StreamsBroker, look: Callable[[], None]) -> Iterator[Scene]:
    """The scene, and one job that runs until the end; ``look`` is called in between."""
    running, go_on = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name=MAIL, max_retries=0, actor_class=_Typed, broker=broker)
    def send_notification(notification: dict[str, Any]) -> None:
        if notification["type"] == "email":
            raise MailRefused("550 no such user: nobody@example.com")
        if notification["type"] == "push":
            raise GatewayAway("the push gateway answered 503")

    @dramatiq.actor(queue_name=FILES, max_retries=0, broker=broker)
    def render(size: str, *_before: Any) -> str:
        return f"cat-{size}.webp"

    @dramatiq.actor(queue_name=FILES, max_retries=0, broker=broker)
    def publish(_renditions: list[str]) -> None:
        wait_for(go_on, "the scene to end", timeout_s=600)

    @dramatiq.actor(queue_name=FILES, max_retries=0, broker=broker)
    def process_file(path: str) -> None:
        current_job().progress(0.6, "3 of 5 renditions")
        running.set()
        wait_for(go_on, "the scene to end", timeout_s=600)

    def send(kind: str, **options: Any) -> Message[Any]:
        payload = {"userId": "u1", "type": kind, "title": "You have mail"}
        return send_notification.send_with_options(
            args=(payload,), correlation_id="signup-7f3a", **options
        )

    broker.emit_after("process_boot")
    look()
    with working(broker, threads=4, queues={MAIL}):
        for index in range(60):
            look()
            send("email" if index % 12 == 0 else "push" if index % 9 == 0 else "in_app")
        dead = send("email")
        look()
        eventually(
            lambda: broker.inspector.queue(MAIL), lambda info: info.ready + info.in_flight == 0
        )
        look()
    for index in range(7):
        send("in_app", delay=600_000 * (index + 1))
    waiting = [send("in_app") for _ in range(17)][-1]
    held = process_file.send("uploads/cat.png")
    flow = Flow("renditions")
    flow.step("scan", render.message("original"))
    flow.parallel("resize", [render.message(size) for size in ("s", "m", "l")], after="scan")
    flow.step("watermark", render.message("mark"), after="scan")
    flow.step("publish", publish.message_with_options(), after=["resize", "watermark"])
    broker.add_middleware(Flows())
    flow_id = flows.start(flow, broker=broker)
    with working(broker, threads=2, queues={FILES}):
        wait_for(running, "the file to be processed")
        eventually(
            lambda: flows.get(flow_id, broker=broker),
            lambda found: found is not None and found.step("publish").state == "running",
        )
        schedules = broker.inspector.schedules
        schedules.add("digest", "send_notification", "0 7 * * *", timezone="Europe/Berlin")
        schedules.add("clean-up", "process_file", "30 2 * * *", args=("uploads",), overlap="skip")
        look()
        try:
            yield Scene(broker, dead, waiting, held, flow_id, send_notification)
        finally:
            go_on.set()
