"""A broker that is traced to a real OTLP receiver, and workers of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dramatiq.middleware import AgeLimit, AsyncIO, Callbacks, CurrentMessage, Pipelines, Retries
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

from bench.otlp import Received, Receiver
from broker import StreamsBroker
from broker.embedded import EmbeddedValkey
from otel.tracing import Tracing
from tests.conftest import NewBroker

Traced = Callable[..., StreamsBroker]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP endpoint that speaks gRPC."""
    with Receiver("grpc") as started:
        yield started


@pytest.fixture
def received(receiver: Receiver) -> Received:
    """What the endpoint got."""
    return receiver.received


@pytest.fixture
def new_provider(receiver: Receiver) -> Iterator[Callable[..., TracerProvider]]:
    """Make tracer providers that export each span as it ends: `new_provider(sampler=…)`."""
    made: list[TracerProvider] = []

    def make(sampler: Sampler = ALWAYS_ON) -> TracerProvider:
        resource = Resource({"service.name": "test"})
        provider = TracerProvider(sampler=ParentBased(sampler), resource=resource)
        exporter = OTLPSpanExporter(endpoint=receiver.url, insecure=True)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        made.append(provider)
        return provider

    yield make
    for provider in made:
        provider.shutdown()


@pytest.fixture
def traced(
    valkey_server: EmbeddedValkey,
    new_broker: NewBroker,
    new_provider: Callable[..., TracerProvider],
) -> Traced:
    """Build a traced broker: `traced(sampler=…, max_retries=…, relation="link")`."""

    def make(
        *, sampler: Sampler = ALWAYS_ON, max_retries: int = 0, **options: Any
    ) -> StreamsBroker:
        tracing = Tracing(tracer_provider=new_provider(sampler), **options)
        middleware = [
            tracing,
            CurrentMessage(),
            AgeLimit(),
            AsyncIO(),
            Callbacks(),
            Pipelines(),
            Retries(max_retries=max_retries, min_backoff=1, max_backoff=1),
            tracing.ending,
        ]
        broker = new_broker("streams", valkey_server.url, middleware=middleware)
        assert isinstance(broker, StreamsBroker)
        return broker

    return make
