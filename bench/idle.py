"""What a queue costs the server while nothing happens."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from statistics import median
from uuid import uuid4

import redis

from bench.figure import Figure, at_most
from bench.peers import HEADRACE, STOCK, Peer, declare_start
from bench.processes import WorkerProcess
from bench.run import Run
from bench.worker import Task

#: How long a worker is still starting after its first job, in seconds, and more.
START_S = 3


def idle(run: Run) -> list[Figure]:
    """Commands a second that one worker process with one queue sends while it waits."""
    rates: dict[Peer, list[float]] = defaultdict(list)
    for peer in run.in_turns([HEADRACE, STOCK]):
        rates[peer].append(_watch_worker(run, peer))
        run.say(f"{peer.name}: {rates[peer][-1]:.1f} commands/s while idle")
    return [
        Figure(
            name="idle",
            title="commands of an idle queue",
            ours=median(rates[HEADRACE]),
            peer=median(rates[STOCK]),
            peer_name=STOCK.name,
            unit="commands/s",
            better="less",
            target=at_most(3),
        )
    ]


def _watch_worker(run: Run, peer: Peer) -> float:
    namespace = run.namespace()
    task = Task(peer=peer, url=run.url, namespace=namespace, until="told")
    with WorkerProcess(task) as worker:
        worker.wait_ready()
        worker.go()
        broker = peer.build(run.url, namespace)
        # Its own start is not idle; that goes on for a second after the first job.
        declare_start(broker).send(0)
        worker.started()
        broker.close()
        time.sleep(min(START_S, run.size.idle_s))
        rate = commands(run.url, run.size.idle_s) / run.size.idle_s
    run.clean()
    return rate


def commands(url: str, seconds: float) -> int:
    """Commands that clients send in so many seconds.

    Counted from MONITOR, which tells them from those that scripts call; the counters of INFO
    add both up.
    """
    end = uuid4().hex
    count = 0
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:
        timer = threading.Timer(seconds, client.echo, [end])
        timer.start()
        for seen in monitor.listen():
            if end in seen["command"]:
                break
            count += seen["client_type"] != "lua"
        timer.join()
    return count
