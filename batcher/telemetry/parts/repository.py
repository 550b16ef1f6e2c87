"""Counts of a model repository, as a scrape takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from batcher.core.observation import Observation
from batcher.telemetry.export import single_values
from batcher.telemetry.families import repository


@dataclass(frozen=True, slots=True)
class RepositoryPoints:
    """A model repository now."""

    readable: bool = True
    models: int = 0
    broken: int = 0
    """Models that are not served as their files say."""
    scans: Mapping[str, int] = field(default_factory=dict)
    """Scans of the directory by result: ok, failed."""


class RepositoryPart:
    """Asks `points` for its counts at every scrape."""

    families = repository.FAMILIES

    def __init__(self, points: Callable[[], RepositoryPoints]) -> None:
        self._points = points

    def collect(self, _: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        points = self._points()
        for family, value in (
            (repository.REPOSITORY_READABLE, int(points.readable)),
            (repository.REPOSITORY_MODELS, points.models),
            (repository.REPOSITORY_BROKEN, points.broken),
        ):
            yield single_values(family, [((), value)])
        yield single_values(
            repository.REPOSITORY_SCANS,
            (((result,), count) for result, count in points.scans.items()),
        )
