"""Models that come and go while the server runs.

A *source* (the configuration file, a model repository, an admin call) says which models it wants served;
`ModelManager` loads, reloads and unloads until that is so, one change of a model at a time, different
models at the same time. `wanted` has the types that sources and the manager exchange.
"""

from batcher.lifecycle.manager import ModelManager
from batcher.lifecycle.wanted import (
    ChangeResult,
    KnownModel,
    LoadParameters,
    ModelChange,
    ModelRepository,
    ServesModels,
    Source,
    WantedModel,
)

__all__ = [
    "ChangeResult",
    "KnownModel",
    "LoadParameters",
    "ModelChange",
    "ModelManager",
    "ModelRepository",
    "ServesModels",
    "Source",
    "WantedModel",
]
