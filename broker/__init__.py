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

__all__ = [
    "AuthenticationRefused",
    "ClusterClientRequired",
    "EvictionPolicyRefused",
    "HeadraceError",
    "InvalidOption",
    "MessageTooLarge",
    "ServerOutOfMemory",
    "ServerRefused",
    "ServerTooOld",
    "SettingsError",
    "StreamsBroker",
    "UnsupportedClient",
]
