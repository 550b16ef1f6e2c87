"""What a part of the exposition is, and the health that several parts read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import Metric

from batcher.core.observation import Observation
from batcher.telemetry.export import Labels
from batcher.telemetry.families import Family


class Part(Protocol):
    """Some families of the exposition."""

    @property
    def families(self) -> tuple[Family, ...]:
        """Every family that `collect` may give."""

    def collect(self, observation: Observation) -> Iterator[Metric]:
        """The families with their samples of this moment, in the order of `families`.

        Called on the event loop's thread at each scrape; `observation` is the scheduler now. A family
        of which nothing is known has no samples, or is left out. Must not block.
        """


@dataclass(frozen=True, slots=True)
class HealthPoints:
    """Whether the server is ready, and for each model 1 for the state that it is in, 0 for the others."""

    ready: bool = False
    states: Sequence[tuple[Labels, int]] = ()
    instances: Sequence[tuple[Labels, int]] = ()
    """The same of each instance."""
    abandoned: Sequence[tuple[Labels, int]] = ()
    """Abandoned threads of each model."""
