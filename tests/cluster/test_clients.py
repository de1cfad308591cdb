"""The clients that workers derive from the application's: how it connects is kept."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from redis.cluster import LoadBalancingStrategy

from broker import (
    ClusterClientRequired,
    EvictionPolicyRefused,
    StreamsBroker,
    UnsupportedClient,
    clients,
)
from broker import server as servers
from broker.embedded import HOST, EmbeddedServerFailed, EmbeddedValkey
from tests.cluster.clusters import Cluster
from tests.cluster.conftest import ClusterBroker
from tests.conftest import NewServer, StartWorker
from tests.contract.recording import Seen
from tests.ports import free_port
from tests.servers import ServerKind
from tests.waiting import PATIENCE_S

TIMEOUT_MS = int(PATIENCE_S * 1000)

#: What happens between redis-py and our client does not differ by server.
one_server = pytest.mark.parametrize("server_kind", ["valkey"], indirect=True)
#: The embedded server is built without TLS.
server_with_tls = pytest.mark.parametrize("server_kind", ["redis"], indirect=True)


def work(streams: StreamsBroker, start_worker: StartWorker, during: Callable[[], None]) -> None:
    """Run jobs of three queues, and ``during`` while their workers block."""
    seen = Seen()

    def job(label: str) -> None:
        seen.add(label)

    actors = [
        dramatiq.actor(actor_name=f"job_{queue}", queue_name=queue, broker=streams)(job)
        for queue in ("one", "two", "three")
    ]
    start_worker(streams)
    for label in ("first", "second"):
        for actor in actors:
            actor.send(label)
            actor.send_with_options(args=(f"{label} later",), delay=20)
        assert sorted(seen.take(6)) == sorted([label, f"{label} later"] * 3)
    during()
    for actor in actors:
        streams.join(actor.queue_name, timeout=TIMEOUT_MS)
        assert streams.inspector.dead(actor.queue_name) == []
    assert sorted(streams.inspector.queues()) == ["one", "three", "two"]


def connected(client: Any) -> list[dict[str, Any]]:
    """The connections of clients that wait in a blocking read or run scripts."""
    return [row for row in client.client_list() if row["cmd"] in ("xreadgroup", "evalsha")]


def test_a_unix_socket(
    own_server: NewServer, tmp_path: Path, new_streams: ClusterBroker, start_worker: StartWorker
) -> None:
    path = str(tmp_path / "socket")
    started = own_server(config={"unixsocket": path})
    client = redis.Redis(unix_socket_path=path)
    streams = new_streams(client)

    def all_by_socket() -> None:
        with redis.Redis.from_url(started.url) as plain:
            rows = connected(plain)
        assert rows
        assert all(path in row["laddr"] for row in rows), rows

    work(streams, start_worker, all_by_socket)


def test_a_user_with_a_password(
    own_server: NewServer, new_streams: ClusterBroker, start_worker: StartWorker
) -> None:
    started = own_server(
        config={"user default": "off", "user worker": "on >secret ~* &* +@all"},
    )
    client = redis.Redis(host=HOST, port=started.port, username="worker", password="secret")
    streams = new_streams(client)

    def all_by_user() -> None:
        rows = connected(client)
        assert {row["user"] for row in rows} == {"worker"}

    work(streams, start_worker, all_by_user)


@one_server
@pytest.mark.parametrize(
    "options",
    [
        {"protocol": 3},
        {"protocol": 3, "legacy_responses": False},
        {"protocol": 2, "legacy_responses": False},
        {"health_check_interval": 1},
        {"single_connection_client": True},
    ],
    ids=repr,
)
def test_options_of_the_client(
    server: EmbeddedValkey,
    new_streams: ClusterBroker,
    start_worker: StartWorker,
    options: dict[str, Any],
) -> None:
    client = redis.Redis(host=HOST, port=server.port, **options)
    work(new_streams(client), start_worker, lambda: None)
    derived = clients.derive(client, socket_timeout=7).connection_pool.connection_kwargs
    assert derived["socket_timeout"] == 7
    assert derived["health_check_interval"] == options.get("health_check_interval", 0)


@one_server
def test_the_limit_of_a_pool_does_not_hold_for_workers_which_would_starve(
    server: EmbeddedValkey, new_streams: ClusterBroker, start_worker: StartWorker
) -> None:
    pool = redis.BlockingConnectionPool(host=HOST, port=server.port, max_connections=1, timeout=1)
    work(new_streams(redis.Redis(connection_pool=pool)), start_worker, lambda: None)


class Certificate:
    """A self-signed certificate for loopback and its key, as files."""

    def __init__(self, folder: Path) -> None:
        self.file, self.key_file = folder / "certificate.pem", folder / "key.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))
        self.key_file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )

    def directives(self, port: int) -> dict[str, str]:
        """The server's configuration to listen with TLS on this port as well."""
        return {
            "tls-port": str(port),
            "tls-cert-file": str(self.file),
            "tls-key-file": str(self.key_file),
            "tls-auth-clients": "no",
        }


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


@contextmanager
def skipping_without_tls() -> Iterator[None]:
    """Skip the test when the server's refusal to start says that it was built without TLS."""
    try:
        yield
    except EmbeddedServerFailed as failure:
        if "tls" not in str(failure).lower():
            raise
        pytest.skip("this server is built without TLS")


@server_with_tls
def test_tls(
    own_server: NewServer,
    certificate: Certificate,
    new_streams: ClusterBroker,
    start_worker: StartWorker,
) -> None:
    port = free_port()
    with skipping_without_tls():
        started = own_server(config=certificate.directives(port))
    url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={certificate.file}"
    client = redis.Redis.from_url(url)
    streams = new_streams(client)

    def all_by_tls() -> None:
        with redis.Redis.from_url(started.url) as plain:
            rows = connected(plain)
        assert {row["laddr"] for row in rows} == {f"{HOST}:{port}"}

    work(streams, start_worker, all_by_tls)
    stranger = clients.derive(redis.Redis(host=HOST, port=port, ssl=True), socket_timeout=1)
    with pytest.raises(redis.ConnectionError, match="(?i)certificate") as refused:
        stranger.ping()
    assert isinstance(refused.value.__cause__ or refused.value.__context__, ssl.SSLError)


@server_with_tls
def test_tls_to_a_cluster(
    server_kind: ServerKind,
    tmp_path: Path,
    certificate: Certificate,
    new_streams: ClusterBroker,
    start_worker: StartWorker,
) -> None:
    ports: list[int] = []

    def directives() -> dict[str, str]:
        ports.append(free_port())
        # Without TLS among themselves, nodes tell everybody their ports without TLS.
        among = {"tls-cluster": "yes", "tls-ca-cert-file": str(certificate.file)}
        return {**certificate.directives(ports[-1]), **among}

    with (
        skipping_without_tls(),
        Cluster(server_kind, tmp_path / "nodes", directives=directives) as cluster,
    ):
        url = f"rediss://{HOST}:{ports[0]}?ssl_ca_certs={certificate.file}"
        client = redis.RedisCluster.from_url(url)

        def all_by_tls() -> None:
            found = []
            for node in cluster.nodes:
                with cluster.to(node) as own:
                    found += [int(row["laddr"].rpartition(":")[2]) for row in connected(own)]
            assert found
            assert set(found) <= set(ports)

        work(new_streams(client), start_worker, all_by_tls)


@pytest.fixture
def account(cluster: Cluster, namespace: str) -> str:
    """A user on every node, with the password `secret`."""
    for node in cluster.nodes:
        with cluster.to(node) as own:
            own.acl_setuser(
                namespace, enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"]
            )
    return namespace


@one_server
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"protocol": 3},
        {"legacy_responses": False},
        {"load_balancing_strategy": LoadBalancingStrategy.ROUND_ROBIN},
    ],
    ids=repr,
)
def test_options_of_a_clusters_client(
    cluster: Cluster,
    account: str,
    new_streams: ClusterBroker,
    start_worker: StartWorker,
    options: dict[str, Any],
) -> None:
    greeted: list[object] = []
    client = cluster.client(
        username=account, password="secret", redis_connect_func=greeted.append, **options
    )
    streams = new_streams(client)

    def all_by_user() -> None:
        for node in cluster.nodes:
            with cluster.to(node) as own:
                ours = [row for row in connected(own) if row["user"] == account]
                assert all(row["resp"] == "2" for row in ours if row["cmd"] == "xreadgroup")

    work(streams, start_worker, all_by_user)
    before = len(greeted)
    derived = clients.derive(client, socket_timeout=7)
    derived.ping(target_nodes="all")
    assert len(greeted) > before  # the application's own set-up of a connection
    kwargs = derived.get_connection_kwargs()
    assert kwargs["username"] == account
    assert kwargs["socket_timeout"] == 7
    assert derived.load_balancing_strategy is None  # what a replica says may be old


@one_server
def test_a_clusters_client_made_of_a_url(
    cluster: Cluster, account: str, new_streams: ClusterBroker, start_worker: StartWorker
) -> None:
    url = f"redis://{account}:secret@{HOST}:{cluster.nodes[0].port}"
    with redis.RedisCluster.from_url(url) as client:
        work(new_streams(client), start_worker, lambda: None)


@one_server
def test_deriving_leaves_the_connections_of_the_clusters_client_alone(cluster: Cluster) -> None:
    with cluster.client() as client:
        ids = client.client_id(target_nodes="primaries")
        clients.derive(client, socket_timeout=7).close()
        assert client.client_id(target_nodes="primaries") == ids


def test_a_client_of_one_node_is_refused_with_the_reason(
    cluster: Cluster, new_streams: ClusterBroker
) -> None:
    for node in cluster.nodes:
        streams = new_streams(cluster.to(node))
        with pytest.raises(ClusterClientRequired, match="RedisCluster"):
            servers.check(streams.client)
    streams.declare_queue("work")
    elsewhere = next(
        node
        for node in cluster.nodes
        if node is not cluster.owner(f"{{{streams.namespace}}}:queues")
    )
    producer = new_streams(cluster.to(elsewhere))
    message: dramatiq.Message[None] = dramatiq.Message(
        queue_name="work", actor_name="job", args=(), kwargs={}, options={}
    )
    with pytest.raises(ClusterClientRequired, match="RedisCluster"):
        producer.enqueue(message)


def test_a_node_that_evicts_is_refused(cluster: Cluster, client: redis.RedisCluster) -> None:
    servers.check(client)
    last = cluster.nodes[-1]
    one = {"target_nodes": client.get_node(HOST, last.port)}
    client.config_set("maxmemory-policy", "allkeys-lru", **one)
    try:
        with pytest.raises(EvictionPolicyRefused):
            servers.check(client)
    finally:
        client.config_set("maxmemory-policy", "noeviction", **one)
    servers.check(client)


@one_server
def test_a_clusters_client_that_decodes_is_refused(cluster: Cluster) -> None:
    with (
        cluster.client(decode_responses=True) as decoding,
        pytest.raises(UnsupportedClient, match="decode_responses"),
    ):
        StreamsBroker(client=decoding)
