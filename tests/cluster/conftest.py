"""A cluster of each kind, shared by the session; brokers, workers and queues on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count

import dramatiq
import pytest
import redis

from broker import StreamsBroker
from broker.embedded import HOST, EmbeddedValkey
from tests.applications import Effects, application
from tests.cluster.clusters import Cluster
from tests.conftest import NewBroker
from tests.servers import ServerKind

ClusterBroker = Callable[..., StreamsBroker]
Source = Callable[..., str]
Queues = Callable[[int], list[str]]


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three masters of the embedded Valkey."""
    with Cluster("valkey", tmp_path_factory.mktemp("valkey-cluster")) as made:
        yield made


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three masters of the distribution's Redis 7.0."""
    with Cluster("redis", tmp_path_factory.mktemp("redis-cluster")) as made:
        yield made


@pytest.fixture
def cluster(request: pytest.FixtureRequest, server_kind: ServerKind) -> Cluster:
    """A shared cluster of each kind in turn; leave other namespaces alone."""
    shared: Cluster = request.getfixturevalue(f"{server_kind}_cluster")
    return shared


@pytest.fixture
def client(cluster: Cluster) -> Iterator[redis.RedisCluster]:
    """The application's client."""
    with cluster.client() as made:
        yield made


@pytest.fixture
def new_streams(new_broker: NewBroker, namespace: str) -> Iterator[ClusterBroker]:
    """Brokers with any client: `new_streams(client, heartbeat_timeout=300)`."""
    assert new_broker is not None  # restores Dramatiq's global broker after the test
    built: list[StreamsBroker] = []

    def make(client: object, **options: object) -> StreamsBroker:
        made = StreamsBroker(client=client, namespace=namespace, **options)  # type: ignore[arg-type]
        built.append(made)
        dramatiq.set_broker(made)
        return made

    yield make
    for made in built:
        made.close()


@pytest.fixture
def streams(client: redis.RedisCluster, new_streams: ClusterBroker) -> StreamsBroker:
    """A broker on the cluster, and the global one."""
    return new_streams(client)


@pytest.fixture
def queues(client: redis.RedisCluster, namespace: str) -> Queues:
    """Names of queues, as many as wanted on each node: `queues(2)` are six on three nodes."""

    def name(each: int) -> list[str]:
        by_node: dict[str, list[str]] = defaultdict(list)
        for number in count():
            node = client.get_node_from_key(f"{{{namespace}:queue-{number}}}")
            if len(by_node[node.name]) < each:
                by_node[node.name].append(f"queue-{number}")
            if sum(map(len, by_node.values())) == each * len(client.get_primaries()):
                break
        # One of each node in turn.
        return [name for row in zip(*by_node.values(), strict=True) for name in row]

    return name


@pytest.fixture
def effects(server: EmbeddedValkey, namespace: str) -> Iterator[Effects]:
    """What jobs did; kept outside the cluster, which a test may hurt."""
    made = Effects(server.url, namespace)
    yield made
    made.close()


_CLUSTER = """
from redis.cluster import ClusterNode
nodes = [ClusterNode(host, port) for host, port in {nodes!r}]
client = redis.RedisCluster(startup_nodes=nodes)
broker = TheBroker(client=client, namespace=NAMESPACE, **{options!r})
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)

"""


@pytest.fixture
def source(server: EmbeddedValkey, namespace: str) -> Source:
    """The source of a worker's module: `source(cluster, body, heartbeat_timeout=…)`."""

    def make(cluster: Cluster, body: str, **options: object) -> str:
        nodes = [(HOST, node.port) for node in cluster.nodes]
        outside = application("streams", server.url, namespace, "")
        return outside + _CLUSTER.format(nodes=nodes, options=options) + body

    return make
