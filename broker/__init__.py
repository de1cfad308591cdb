"""Headrace's broker: every byte that goes to Redis."""

from broker.broker import StreamsBroker
from broker.errors import (
    AuthenticationRefused,
    ClusterClientRequired,
    EvictionPolicyRefused,
    HeadraceError,
    InvalidActorOption,
    InvalidOption,
    MessageTooLarge,
    RateLimited,
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
    "EvictionPolicyRefused",
    "HeadraceError",
    "InvalidActorOption",
    "InvalidOption",
    "MessageTooLarge",
    "QueueLimit",
    "Rate",
    "RateLimited",
    "ServerOutOfMemory",
    "ServerRefused",
    "ServerTooOld",
    "SettingsError",
    "StreamsBroker",
    "UnsupportedClient",
]
