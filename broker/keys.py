"""The names of everything Headrace keeps in Redis, built here and nowhere else."""

from __future__ import annotations

#: The consumer group of every ready stream and of the wake stream.
GROUP = "workers"
#: The group's consumer for what was handed back: no process. Kept in step with the scripts.
RELEASED = b"~released"
#: The highest of priorities, as with RabbitMQ: each is a stream that every script declares.
MOST_PRIORITY = 255


class QueueKeys:
    """The keys of one queue; all share the hash tag ``ns:q`` and so one cluster slot."""

    def __init__(self, namespace: str, queue: str, max_priority: int) -> None:
        self.namespace = namespace
        self.queue = queue
        #: One stream a level, lowest first: ``ready[level]``.
        self.ready = tuple(self._key(f"ready:{level}") for level in range(max_priority + 1))
        self.wake = self._key("wake")
        self.scheduled = self._key("scheduled")
        self.scheduled_messages = self._key("scheduled:messages")
        self.dead = self._key("dead")
        self.dead_messages = self._key("dead:messages")
        self.control = self._key("control")
        self.dedup = self._key("dedup")
        #: Deduplication keys that have a time of their own.
        self.lapsing = self._key("dedup:lapsing")
        self.events = self._key("events")
        #: What failed and was not reported yet.
        self.tally = self._key("tally")
        self.schedules = self._key("schedules")
        self.schedules_state = self._key("schedules:state")
        #: A job's record is this prefix and the message id (scripts complete it).
        self.job_prefix = self._key("job:")
        #: A flow's state is this prefix and its id, and keys that go on after the id.
        self.flow_prefix = self._key("flow:")
        self.flow_deadlines = self._key("flows:deadlines")
        #: Letters: what is to be done in other slots, or later.
        self.outbox = self._key("outbox")

    def _key(self, name: str) -> str:
        return f"{{{self.namespace}:{self.queue}}}:{name}"

    def recent(self, state: str) -> str:
        """The index of the records of jobs that ended in this state."""
        return self._key(f"recent:{state}")

    def limit(self, key: str) -> str:
        """The state of one key's rate, and until when the key is held."""
        return self._key(f"limit:{key}")

    def rate_line(self, key: str) -> str:
        """The jobs that wait for the key's rate."""
        return self._key(f"rate-line:{key}")

    def slots(self, key: str) -> str:
        """The jobs of a concurrency key that run."""
        return self._key(f"slots:{key}")

    def slots_line(self, key: str) -> str:
        """The jobs that wait for a slot of the key."""
        return self._key(f"slots-line:{key}")

    def taken(self, source: str) -> str:
        """Events of a source that have become messages here and are not acknowledged yet."""
        return self._key(f"taken:{source}")


def cancel_channel(namespace: str) -> str:
    """Where workers hear which running job is to be cancelled."""
    return f"{{{namespace}}}:cancel"


def queues_key(namespace: str) -> str:
    """The registry of queue names."""
    return f"{{{namespace}}}:queues"


def intake_keys(namespace: str) -> tuple[str, str, str, str]:
    """Events that were set aside, by time and by name; how far each source and replay has come."""
    prefix = f"{{{namespace}:intake}}"
    return f"{prefix}:aside", f"{prefix}:aside:events", f"{prefix}:positions", f"{prefix}:replays"


def notices_key(namespace: str) -> str:
    """Whose turn it is to send a notice of failures, and when the next one may go."""
    return f"{{{namespace}}}:notices"


def leader_key(namespace: str, what: str) -> str:
    """Which process does what one process of all does."""
    return f"{{{namespace}}}:leader:{what}"
