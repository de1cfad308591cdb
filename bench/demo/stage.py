"""What runs around the demo's jobs: the server, the other sides, workers and scheduler."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.demo.sinks import HttpSink, SmtpSink
from bench.demo.users import Brokers, Users
from bench.demo.workers import NAMESPACE, SCHEDULER, WORKERS, Program, environment
from bench.demo.workload import FLAKY_REFUSALS, FLAKY_TITLE, UNKNOWN_ADDRESS
from broker.embedded import EmbeddedValkey


@dataclass(frozen=True, slots=True)
class Stage:
    """All of it, each under the Redis user of its role."""

    server: EmbeddedValkey
    users: Users
    mails: SmtpSink
    pushes: HttpSink
    brokers: Brokers
    workers: Program
    scheduler: Program

    @classmethod
    def up(cls, stack: ExitStack, folder: Path, more: Mapping[str, str]) -> Stage:
        """Start everything; the stack ends it. ``more`` is told to workers and scheduler."""
        users = Users(NAMESPACE)
        access = {"aclfile": users.write(folder / "users.acl")}
        server = stack.enter_context(
            EmbeddedValkey(folder / "valkey", appendonly=True, config=access)
        )
        users.at(server.url)
        mails = stack.enter_context(SmtpSink(unknown=frozenset({UNKNOWN_ADDRESS})))
        pushes = stack.enter_context(HttpSink(refusals={FLAKY_TITLE: FLAKY_REFUSALS}))
        environ = {
            **environment(
                folder,
                redis_url=users.url("worker"),
                smtp_port=mails.port,
                push_url=pushes.url,
                base=os.environ,
            ),
            **more,
        }
        brokers = Brokers.build(environ, users)
        stack.callback(brokers.close)
        workers = stack.enter_context(Program(WORKERS, environ, folder / "workers.log"))
        environ = {**environ, "REDIS_URL": users.url("scheduler")}
        scheduler = stack.enter_context(Program(SCHEDULER, environ, folder / "scheduler.log"))
        return cls(server, users, mails, pushes, brokers, workers, scheduler)
