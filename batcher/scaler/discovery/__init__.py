"""Finding the replicas of a fleet: one class for each key of `replicas`, all with the interface `Discovery`."""

from __future__ import annotations

from batcher.errors import StartupError
from batcher.scaler.discovery.config import EndpointSlicesConfig, ReplicasConfig
from batcher.scaler.discovery.interface import (
    HEARTBEAT_NS,
    STALE_NS,
    Discovery,
    Endpoint,
    Found,
)
from batcher.scaler.discovery.static import StaticDiscovery

__all__ = [
    "HEARTBEAT_NS",
    "STALE_NS",
    "Discovery",
    "Endpoint",
    "EndpointSlicesConfig",
    "Found",
    "ReplicasConfig",
    "discovery_of",
]


def discovery_of(replicas: ReplicasConfig) -> Discovery:
    """The discovery that a fleet's key `replicas` asks for. Raises `StartupError` where it cannot be had."""
    if replicas.static is not None:
        return StaticDiscovery(replicas.static)
    raise StartupError("replicas: only static is served by this build")
