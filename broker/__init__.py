"""Headrace's broker: every byte that goes to Redis."""

from broker.broker import StreamsBroker
from broker.cancellation import JobCancelled
from broker.current import CurrentJob, NoCurrentJob, current_job
from broker.dead_filter import DeadFilter
from broker.errors import (
    AuthenticationRefused,
    CertificateRefused,
    ClusterClientRequired,
    DatabaseRefused,
    EvictionPolicyRefused,
    HeadraceError,
    InvalidActorOption,
    InvalidOption,
    MessageTooLarge,
    NotRedriven,
    QueueClosed,
    QueueFull,
    RateLimited,
    Refused,
    ScriptDenied,
    ServerOutOfMemory,
    ServerRefused,
    ServerTooOld,
    SettingsError,
    UnsupportedClient,
)
from broker.events import Event
from broker.job_record import JobRecord, State
from broker.jobs import JobUnknown, WaitTimeout
from broker.limits import QueueDepth, QueueLimit, Rate
from broker.retention import DeadRetention, Keep, Retention

__all__ = [
    "AuthenticationRefused",
    "CertificateRefused",
    "ClusterClientRequired",
    "CurrentJob",
    "DatabaseRefused",
    "DeadFilter",
    "DeadRetention",
    "Event",
    "EvictionPolicyRefused",
    "HeadraceError",
    "InvalidActorOption",
    "InvalidOption",
    "JobCancelled",
    "JobRecord",
    "JobUnknown",
    "Keep",
    "MessageTooLarge",
    "NoCurrentJob",
    "NotRedriven",
    "QueueClosed",
    "QueueDepth",
    "QueueFull",
    "QueueLimit",
    "Rate",
    "RateLimited",
    "Refused",
    "Retention",
    "ScriptDenied",
    "ServerOutOfMemory",
    "ServerRefused",
    "ServerTooOld",
    "SettingsError",
    "State",
    "StreamsBroker",
    "UnsupportedClient",
    "WaitTimeout",
    "current_job",
]
