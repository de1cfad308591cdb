"""Headrace's broker: every byte that goes to Redis."""

from broker.broker import StreamsBroker
from broker.errors import (
    AuthenticationRefused,
    ClusterClientRequired,
    EvictionPolicyRefused,
    HeadraceError,
    InvalidOption,
    MessageTooLarge,
    ServerOutOfMemory,
    ServerRefused,
    ServerTooOld,
    SettingsError,
    UnsupportedClient,
)
from broker.limits import QueueLimit

__all__ = [
    "AuthenticationRefused",
    "ClusterClientRequired",
    "EvictionPolicyRefused",
    "HeadraceError",
    "InvalidOption",
    "MessageTooLarge",
    "QueueLimit",
    "ServerOutOfMemory",
    "ServerRefused",
    "ServerTooOld",
    "SettingsError",
    "StreamsBroker",
    "UnsupportedClient",
]
