"""Headrace's broker: every byte that goes to Redis."""

from broker.broker import StreamsBroker
from broker.dead_letters import DeadFilter, DeadRetention
from broker.errors import (
    AuthenticationRefused,
    ClusterClientRequired,
    EvictionPolicyRefused,
    HeadraceError,
    InvalidActorOption,
    InvalidOption,
    MessageTooLarge,
    RateLimited,
    Refused,
    ServerOutOfMemory,
    ServerRefused,
    ServerTooOld,
    SettingsError,
    UnsupportedClient,
)
from broker.limits import QueueLimit, Rate

__all__ = [
    "AuthenticationRefused",
    "ClusterClientRequired",
    "DeadFilter",
    "DeadRetention",
    "EvictionPolicyRefused",
    "HeadraceError",
    "InvalidActorOption",
    "InvalidOption",
    "MessageTooLarge",
    "QueueLimit",
    "Rate",
    "RateLimited",
    "Refused",
    "ServerOutOfMemory",
    "ServerRefused",
    "ServerTooOld",
    "SettingsError",
    "StreamsBroker",
    "UnsupportedClient",
]
