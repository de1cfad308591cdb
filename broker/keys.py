"""The names of everything Headrace keeps in Redis, built here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The consumer group of every ready stream and of the wake stream.
GROUP = "workers"
#: The group's consumer for what was handed back: no process. Kept in step with the scripts.
RELEASED = b"~released"


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of one queue; all share the hash tag ``ns:q`` and so one cluster slot."""

    namespace: str
    queue: str
    max_priority: int
    ready: tuple[str, ...] = field(init=False)
    """One stream a level, lowest first: ``ready[level]``."""

    def __post_init__(self) -> None:
        levels = tuple(self._key(f"ready:{level}") for level in range(self.max_priority + 1))
        object.__setattr__(self, "ready", levels)

    def _key(self, name: str) -> str:
        return f"{{{self.namespace}:{self.queue}}}:{name}"

    @property
    def wake(self) -> str:
        return self._key("wake")

    @property
    def scheduled(self) -> str:
        return self._key("scheduled")

    @property
    def scheduled_messages(self) -> str:
        return self._key("scheduled:messages")

    @property
    def dead(self) -> str:
        return self._key("dead")

    @property
    def dead_messages(self) -> str:
        return self._key("dead:messages")

    @property
    def control(self) -> str:
        return self._key("control")

    @property
    def dedup(self) -> str:
        return self._key("dedup")

    @property
    def lapsing(self) -> str:
        """Deduplication keys that have a time of their own."""
        return self._key("dedup:lapsing")

    @property
    def events(self) -> str:
        return self._key("events")

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

    @property
    def tally(self) -> str:
        """What failed and was not reported yet."""
        return self._key("tally")

    @property
    def schedules(self) -> str:
        return self._key("schedules")

    @property
    def schedules_state(self) -> str:
        return self._key("schedules:state")

    def taken(self, source: str) -> str:
        """Events of a source that have become messages here and are not acknowledged yet."""
        return self._key(f"taken:{source}")

    @property
    def job_prefix(self) -> str:
        """A job's record is this prefix and the message id (scripts complete it)."""
        return self._key("job:")

    def recent(self, state: str) -> str:
        """The index of the records of jobs that ended in this state."""
        return self._key(f"recent:{state}")

    @property
    def flow_prefix(self) -> str:
        """A flow's state is this prefix and its id, and keys that go on after the id."""
        return self._key("flow:")

    @property
    def flow_deadlines(self) -> str:
        return self._key("flows:deadlines")

    @property
    def outbox(self) -> str:
        """Letters: what is to be done in other slots, or later."""
        return self._key("outbox")


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
