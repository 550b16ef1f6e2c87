"""What `/readyz` reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """Whether one model can serve; `reason` says why not, for a person."""

    name: str
    version: str
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Whether the server wants traffic; `reason` says why not, for a person."""

    ready: bool
    models: tuple[ModelHealth, ...] = ()
    reason: str = ""
