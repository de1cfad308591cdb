"""`headrace acl`: the printed lines are an ACL file that a server takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from broker.cli.exits import Exit
from broker.roles import ROLES
from tests.cli.conftest import Headrace
from tests.conftest import NewServer
from tests.servers import SERVER_KINDS, ServerKind


@pytest.fixture(params=SERVER_KINDS)
def server_kind(request: pytest.FixtureRequest) -> ServerKind:
    kind: ServerKind = request.param
    return kind


def test_a_server_starts_with_the_printed_file(
    headrace: Headrace, own_server: NewServer, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("geheim\n")
    printed = headrace("acl", "--password-file", str(secret))
    assert printed.status == 0
    assert len(printed.out.splitlines()) == len(ROLES)
    assert "geheim" not in printed.out
    file = tmp_path / "users.acl"
    file.write_text(f"user default off\n{printed.out}")
    server = own_server(config={"aclfile": str(file)})
    url = server.url.replace("redis://", "redis://headrace-worker:geheim@")
    with redis.Redis.from_url(url) as worker:
        assert worker.ping()


def test_a_role_of_one_queue_has_that_queues_keys_only(headrace: Headrace, namespace: str) -> None:
    ran = headrace("acl", "producer", "--queue", "mail", "--name", "shop", "--json")
    (told,) = ran.json
    assert (told["name"], told["role"]) == ("shop", "producer")
    keys = [part for rule in told["rules"] for part in rule.strip("()").split() if "~" in part]
    assert all(f"{{{namespace}:mail}}:" in key or key == f"~{{{namespace}}}:queues" for key in keys)


@pytest.mark.parametrize(
    "arguments", [("--name", "x"), ("owner",), ("worker", "--password-file", "nowhere")]
)
def test_a_wrong_request_is_refused(headrace: Headrace, arguments: tuple[str, ...]) -> None:
    assert headrace("acl", *arguments).status == Exit.USAGE
