"""The development server, on real processes."""

from __future__ import annotations

import _thread
import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import embedded
from broker.embedded import EmbeddedServerFailed, EmbeddedValkey
from tests.conftest import NewServer
from tests.waiting import eventually


def _client(server: EmbeddedValkey, timeout_s: float = 5.0) -> redis.Redis:
    return redis.Redis.from_url(
        server.url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0), decode_responses=True
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_answers_once_started_and_is_gone_once_stopped() -> None:
    with EmbeddedValkey() as server:
        pid = server.pid
        with _client(server) as client:
            assert client.ping()
    assert not _runs(pid)
    with pytest.raises(EmbeddedServerFailed):
        _ = server.pid


def test_it_keeps_jobs_rather_than_evict_them_unless_told_otherwise(own_server: NewServer) -> None:
    with _client(own_server()) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    evicting = own_server(config={"maxmemory-policy": "allkeys-lru"})
    with _client(evicting) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}


def test_it_listens_on_loopback_only(own_server: NewServer) -> None:
    with _client(own_server()) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_a_killed_server_comes_back_on_its_port_with_what_it_acknowledged(
    own_server: NewServer,
) -> None:
    server = own_server(appendonly=True)
    port = server.port
    with _client(server) as client:
        client.set("kept", "yes")
    server.kill()
    server.start()
    assert server.port == port
    with _client(server) as client:
        assert client.get("kept") == "yes"


def test_a_stopped_server_comes_back_too(own_server: NewServer) -> None:
    server = own_server(appendonly=True)
    with _client(server) as client:
        client.set("kept", "yes")
    server.stop()
    server.stop()
    server.start()
    with _client(server) as client:
        assert client.get("kept") == "yes"


def test_a_paused_server_is_silent_until_it_goes_on(own_server: NewServer) -> None:
    server = own_server()
    with _client(server, timeout_s=0.3) as client:
        assert client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.cont()
    with _client(server) as client:
        assert client.ping()


def test_stopping_works_while_it_is_paused(own_server: NewServer) -> None:
    server = own_server()
    pid = server.pid
    server.pause()
    server.stop()
    assert not _runs(pid)


def test_a_password_in_the_configuration_does_not_keep_it_from_starting(
    own_server: NewServer,
) -> None:
    server = own_server(config={"requirepass": "correct"})
    with _client(server) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_starting_twice_is_one_server(own_server: NewServer) -> None:
    server = own_server()
    pid = server.pid
    server.start()
    assert server.pid == pid


def test_a_taken_port_is_an_error_that_shows_the_log(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedValkey(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(EmbeddedServerFailed, match="Address already in use"):
            server.start()


def test_a_wrong_directive_is_an_error_that_shows_it(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, config={"no-such-directive": "1"})
    with pytest.raises(EmbeddedServerFailed, match="no-such-directive"):
        server.start()


def test_a_data_folder_belongs_to_one_server(tmp_path: Path) -> None:
    with (
        EmbeddedValkey(tmp_path),
        pytest.raises(EmbeddedServerFailed, match="belongs to another running server"),
    ):
        EmbeddedValkey(tmp_path).start()


def test_a_temporary_folder_goes_with_its_server() -> None:
    server = EmbeddedValkey()
    folder = server.data_dir
    server.start()
    pid = server.pid
    del server
    gc.collect()
    assert not folder.exists()
    assert not _runs(pid)


def test_a_program_that_forgets_its_server_does_not_leave_it_behind() -> None:
    program = (
        "from broker.embedded import EmbeddedValkey\n"
        "server = EmbeddedValkey()\n"
        "server.start()\n"
        "print(server.pid)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert not _runs(int(done.stdout))


def test_an_interrupt_from_the_terminal_does_not_reach_it(own_server: NewServer) -> None:
    server = own_server()
    # A terminal sends SIGINT to its foreground process group, which is the starter's.
    assert os.getpgid(server.pid) != os.getpgid(0)


def test_the_folder_of_a_killed_program_stays_locked_while_its_server_lives(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, pathlib\n"
        "from broker.embedded import EmbeddedValkey\n"
        "server = EmbeddedValkey(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    left = int(killed.stdout)
    try:
        with pytest.raises(EmbeddedServerFailed, match="belongs to another running server"):
            EmbeddedValkey(tmp_path).start()
    finally:
        os.kill(left, signal.SIGKILL)

    def starts() -> bool:
        with EmbeddedValkey(tmp_path):
            return True

    assert eventually(starts, bool)


def test_an_interrupt_while_it_starts_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: list[int] = []

    def interrupted(process: subprocess.Popen[bytes], port: int) -> None:
        spawned.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_wait_until_it_answers", interrupted)
    server = EmbeddedValkey(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert not _runs(spawned[0])


def test_an_interrupt_at_the_moment_of_the_spawn_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: list[int] = []
    spawn = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = spawn(*arguments, **options)
        spawned.append(process.pid)
        _thread.interrupt_main()  # as Ctrl-C does: nobody holds the process yet
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EmbeddedValkey(tmp_path).start()
    assert not _runs(spawned[0])
