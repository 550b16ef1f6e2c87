"""Finding the replicas of a fleet: one class for each key of `replicas`, all with the interface `Discovery`.

`static` lists them, `named` asks DNS servers with the library dnspython, `kubernetes` asks an API server with the library
aiohttp; `looking` is what they share. All keep to one rule: that there are no replicas is said only where
that is certain, as a fleet without replicas may be left at zero. Everything else is "not known", with its reason.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import cast

from batcher.errors import StartupError
from batcher.scaler.discovery.config import EndpointSlicesConfig, ReplicasConfig, parse_name
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
    """The discovery that a fleet's key `replicas` asks for.

    Raises `StartupError` if a library that it needs is not installed (the extra `scaler`).
    """
    if replicas.dns is not None:
        name, port = parse_name(replicas.dns)
        return cast("Discovery", _module("named", "dns").NamedReplicas(name, port))
    if replicas.endpoint_slices is not None:
        of = replicas.endpoint_slices
        sliced = _module("kubernetes.sliced", "endpoint_slices")
        return cast("Discovery", sliced.SlicedReplicas(of.service, of.namespace, of.port))
    return StaticDiscovery(replicas.static or ())


def _module(name: str, key: str) -> ModuleType:
    """The module of a way to find replicas, which imports what is large, or may be missing."""
    try:
        return importlib.import_module(f"batcher.scaler.discovery.{name}")
    except ImportError as error:
        raise StartupError(
            f"replicas.{key} needs a library that cannot be imported ({error}); in a checkout:"
            " pip install '.[scaler]'"
        ) from error
