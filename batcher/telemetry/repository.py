"""Counts of a model repository, as a scrape takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RepositoryPoints:
    """A model repository now."""

    readable: bool = True
    models: int = 0
    broken: int = 0
    """Models that are not served as their files say."""
    scans: Mapping[str, int] = field(default_factory=dict)
    """Scans of the directory by result: ok, failed."""
