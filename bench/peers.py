"""What is measured: Headrace's broker, Dramatiq's own two, and how a process gets one of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import dramatiq
import msgspec
from dramatiq import Actor
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend as RateLimiterBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend as ResultBackend

from bench.stacks import Stack, build
from broker import StreamsBroker
from middleware.flows import Flows

QUEUE = "bench"
#: What Dramatiq reads at import; so each peer needs a process of its own.
PREFETCH_VARIABLE = "dramatiq_queue_prefetch"

AnyBroker: TypeAlias = StreamsBroker | RedisBroker | StubBroker


class Peer(msgspec.Struct, frozen=True):
    """One broker with its settings, as a process is told about it."""

    name: str
    broker: Literal["streams", "redis", "stub"]
    middleware: Stack = "default"
    #: Jobs a worker takes ahead; None: Dramatiq's default, two a thread.
    prefetch: int | None = None
    #: Whether the jobs have records; only Headrace can leave them out.
    records: bool = True
    #: Where its telemetry goes, one trace in ten; empty: nowhere.
    collector: str = ""
    #: Whether results are handed on: by flows, or by Dramatiq's pipelines, groups and results.
    hands_on: bool = False

    def build(self, url: str, namespace: str) -> AnyBroker:
        """The broker; connects when it is first used."""
        options: dict[str, Any] = {
            "middleware": build(self.middleware, telemetry=bool(self.collector))
        }
        if self.broker == "stub":
            return StubBroker(**options)
        kind = StreamsBroker if self.broker == "streams" else RedisBroker
        broker: AnyBroker = kind(url=url, namespace=namespace, **options)
        if self.hands_on and self.broker == "streams":
            broker.add_middleware(Flows())
        elif self.hands_on:
            broker.add_middleware(Results(backend=ResultBackend(url=url)))
            broker.add_middleware(GroupCallbacks(RateLimiterBackend(url=url)))
        return broker

    def environment(self) -> Mapping[str, str]:
        """The environment of its process: no other setting of Dramatiq's gets through."""
        ours = {name: value for name, value in os.environ.items() if not _is_dramatiqs(name)}
        if self.prefetch is not None:
            ours[PREFETCH_VARIABLE] = str(self.prefetch)
        if self.collector:
            ours |= {
                "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.1",
            }
        return ours

    def without_middleware(self) -> Peer:
        """The same with an empty middleware list."""
        return self.with_middleware("none")

    def with_middleware(self, name: Stack) -> Peer:
        """The same with another list."""
        return msgspec.structs.replace(self, middleware=name)

    def with_collector(self, url: str) -> Peer:
        """The same with somewhere to send its telemetry to."""
        return msgspec.structs.replace(self, collector=url)

    def without_records(self) -> Peer:
        """The same, keeping no records of jobs."""
        return msgspec.structs.replace(self, records=False)

    def handing_on(self) -> Peer:
        """The same with what it needs to hand results on."""
        return msgspec.structs.replace(self, hands_on=True)

    @property
    def step_options(self) -> dict[str, Any]:
        """Options of actors whose results are handed on."""
        return {} if self.broker == "streams" else {"store_results": True}

    @property
    def actor_options(self) -> dict[str, Any]:
        """Options of its actors; RedisBroker refuses those that it does not know."""
        return {} if self.records else {"records": False}


HEADRACE = Peer("Headrace", "streams")
STOCK = Peer("RedisBroker", "redis")
TUNED = Peer("RedisBroker, prefetch 500", "redis", prefetch=500)
STUB = Peer("ceiling: StubBroker, in memory", "stub")


def declare_noop(broker: AnyBroker, peer: Peer) -> Actor[..., None]:
    """The actor that producers send; they never run it."""

    @dramatiq.actor(broker=broker, queue_name=QUEUE, **peer.actor_options)
    def noop(*_arguments: object) -> None:
        pass

    return noop


def declare_step(broker: AnyBroker, peer: Peer) -> Actor[..., int]:
    """The actor that pipelines and flows are made of, as producers see it."""

    @dramatiq.actor(broker=broker, queue_name=QUEUE, **peer.step_options)
    def step(*_given: object) -> int:
        return 1

    return step


def declare_start(broker: AnyBroker) -> Actor[[int], None]:
    """The actor that tells when it starts, as seen by producers."""

    @dramatiq.actor(broker=broker, queue_name=QUEUE)
    def start(_number: int) -> None:
        pass

    return start


def _is_dramatiqs(name: str) -> bool:
    return name.lower().startswith("dramatiq_")
