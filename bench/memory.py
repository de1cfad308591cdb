"""What a queued job costs the server's memory."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

import redis

from bench.figure import Figure, at_most_times
from bench.peers import HEADRACE, STOCK, Peer
from bench.run import Run


def memory(run: Run) -> list[Figure]:
    """Bytes of one more queued job in a queue that has some already."""
    found: dict[Peer, list[float]] = defaultdict(list)
    bare = HEADRACE.without_records()
    for peer in run.in_turns([HEADRACE, bare, STOCK]):
        found[peer].append(_bytes_per_job(run, peer))
        kept = "" if peer.records else ", records=False"
        run.say(f"{peer.name}{kept}: {found[peer][-1]:.0f} bytes a job")
    title = "server memory of a queued job"
    return [
        _bytes("bytes-per-job", title, median(found[HEADRACE]), median(found[STOCK])),
        _bytes(
            "bytes-per-job-unrecorded",
            f"{title}, records=False",
            median(found[bare]),
            median(found[STOCK]),
        ),
    ]


def _bytes(name: str, title: str, ours: float, stock: float) -> Figure:
    return Figure(
        name=name,
        title=title,
        ours=ours,
        peer=stock,
        peer_name=STOCK.name,
        unit="bytes",
        better="less",
        target=at_most_times(0.65),
    )


def used(run: Run) -> int:
    """Bytes that the server has allocated."""
    with redis.Redis.from_url(run.url) as client:
        return int(client.info("memory")["used_memory"])


def _bytes_per_job(run: Run, peer: Peer) -> float:
    namespace, jobs = run.namespace(), run.size.jobs
    run.fill(peer, namespace, jobs, _small)
    before = used(run)
    run.fill(peer, namespace, jobs, _small)
    after = used(run)
    run.clean()
    return (after - before) / jobs


def _small(number: int) -> dict[str, str]:
    return {"type": "email", "to": f"user-{number}@example.org", "subject": "Welcome"}
