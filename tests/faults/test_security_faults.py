"""Row 66: TLS that is not to be trusted is refused, and nothing goes out in clear."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.errors import BrokerConnectionError

from broker import CertificateRefused, SettingsError, StreamsBroker
from broker.settings import Settings
from tests.certificates import Authority, Signed
from tests.conftest import NewBroker, NewServer, StartWorker
from tests.ports import free_port
from tests.waiting import wait_for

# The embedded server of the wheel is built without TLS.
redis_only = pytest.mark.parametrize("server_kind", ["redis"])

TlsServer = Callable[..., int]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def tls_server(own_server: NewServer, authority: Authority) -> TlsServer:
    """Start a server with this certificate; gives the port on which it speaks TLS alone."""

    def start(certificate: Signed, *, clients: str = "no") -> int:
        port = free_port()
        own_server(
            config={
                "tls-port": str(port),
                "tls-cert-file": str(certificate.certificate),
                "tls-key-file": str(certificate.key),
                "tls-ca-cert-file": str(authority.file),
                "tls-auth-clients": clients,
            }
        )
        return port

    return start


@pytest.fixture
def broker_by(new_broker: NewBroker) -> Callable[..., StreamsBroker]:
    """A broker as the settings of an environment describe it."""

    def make(**environ: str) -> StreamsBroker:
        made = new_broker("streams", Settings.load(environ).redis_url)
        assert isinstance(made, StreamsBroker)
        return made

    return make


def _by_tls(port: int, authority: Authority) -> dict[str, str]:
    return {"REDIS_URL": f"rediss://127.0.0.1:{port}/0", "REDIS_TLS_CA_FILE": str(authority.file)}


@redis_only
@pytest.mark.parametrize("clients", ["no", "yes"])
def test_jobs_run_over_tls_and_mutual_tls(
    broker_by: Callable[..., StreamsBroker],
    start_worker: StartWorker,
    tls_server: TlsServer,
    authority: Authority,
    clients: str,
) -> None:
    port = tls_server(authority.sign("server"), clients=clients)
    environ = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(port),
        "REDIS_TLS": "true",
        "REDIS_TLS_CA_FILE": str(authority.file),
    }
    if clients == "yes":
        own = authority.sign("client")
        environ |= {"REDIS_TLS_CERT_FILE": str(own.certificate), "REDIS_TLS_KEY_FILE": str(own.key)}
    broker = broker_by(**environ)
    done = threading.Event()

    @dramatiq.actor(queue_name="mail", broker=broker)
    def deliver() -> None:
        done.set()

    start_worker(broker)
    deliver.send()
    wait_for(done, "the job")


@redis_only
@pytest.mark.parametrize("fault", ["expired", "wrong host", "unknown authority", "no client"])
def test_66_a_certificate_that_is_not_to_be_trusted_is_refused(
    broker_by: Callable[..., StreamsBroker],
    tls_server: TlsServer,
    authority: Authority,
    tmp_path: Path,
    fault: str,
) -> None:
    host = "elsewhere.example" if fault == "wrong host" else "127.0.0.1"
    certificate = authority.sign("server", host=host, expired=fault == "expired")
    port = tls_server(certificate, clients="yes" if fault == "no client" else "no")
    trusted = Authority(tmp_path / "others") if fault == "unknown authority" else authority
    broker = broker_by(**_by_tls(port, trusted))
    if fault == "no client":
        # By TLS 1.3 a server refuses after the handshake, and its word may come too late.
        with pytest.raises(BrokerConnectionError):
            broker.enqueue(Message("mail", "deliver", (), {}, {}))
        return
    with pytest.raises(CertificateRefused, match="certificate"):
        broker.enqueue(Message("mail", "deliver", (), {}, {}))
    with pytest.raises(CertificateRefused):  # a worker does not start
        broker.emit_before("worker_boot", None)


@pytest.fixture
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A server that speaks no TLS and keeps what it hears."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65_536))
                    connection.sendall(b"-ERR what is this\r\n")

        threading.Thread(target=listen, daemon=True).start()
        yield server.getsockname()[1], heard


def test_66_nothing_is_said_in_clear_to_a_server_without_tls(
    broker_by: Callable[..., StreamsBroker],
    authority: Authority,
    listener: tuple[int, list[bytes]],
) -> None:
    port, heard = listener
    environ = _by_tls(port, authority)
    environ["REDIS_URL"] = f"rediss://shop:geheim@127.0.0.1:{port}/0"
    broker = broker_by(**environ)
    with pytest.raises(BrokerConnectionError):
        broker.enqueue(Message("mail", "deliver", ("canary",), {}, {}))
    assert heard
    for first in heard:
        assert first[:1] == b"\x16"  # a TLS handshake
        assert b"geheim" not in first
        assert b"canary" not in first


@pytest.mark.parametrize(
    ("environ", "field"),
    [
        ({"REDIS_TLS": "yes"}, "REDIS_TLS"),
        ({"REDIS_URL": "redis://h", "REDIS_TLS": "true"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h", "REDIS_TLS_CA_FILE": "ca"}, "REDIS_TLS_CA_FILE"),
        ({"REDIS_TLS": "true", "REDIS_TLS_CERT_FILE": "c"}, "REDIS_TLS_KEY_FILE"),
        ({"REDIS_TLS": "true", "REDIS_TLS_KEY_FILE": "k"}, "REDIS_TLS_CERT_FILE"),
        ({"REDIS_TLS": "true", "REDIS_TLS_CA_FILE": "/nowhere"}, "REDIS_TLS_CA_FILE"),
        ({"REDIS_URL": "rediss://h?ssl_cert_reqs=none"}, "REDIS_URL"),
        ({"REDIS_URL": "rediss://h?ssl_check_hostname=false"}, "REDIS_URL"),
    ],
)
def test_a_wrong_tls_setting_is_named(environ: dict[str, str], field: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.load(environ)
    assert raised.value.field == field


def test_a_url_takes_the_password_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("ge:heim\n")
    environ = {
        "REDIS_URL": "redis://h:1/0",
        "REDIS_USERNAME": "shop",
        "REDIS_PASSWORD_FILE": str(tmp_path / "password"),
    }
    loaded = Settings.load(environ)
    assert loaded.redis_url == "redis://shop:ge%3Aheim@h:1/0"
    assert "heim" not in repr(loaded)
    assert Settings.load(environ | {"REDIS_URL": "redis://a:b@h"}).redis_url == "redis://a:b@h"
