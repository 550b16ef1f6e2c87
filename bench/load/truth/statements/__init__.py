"""A statement on every family: `untruths` says which of them a scene has shown to be untrue."""

from truth.statements import batches, devices, live, models, process, requests, scale
from truth.statements.statement import STATEMENTS, untruths

__all__ = [
    "STATEMENTS",
    "batches",
    "devices",
    "live",
    "models",
    "process",
    "requests",
    "scale",
    "untruths",
]
