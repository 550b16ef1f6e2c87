"""What became of spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric

from batcher.core.observation import Observation
from batcher.telemetry.export import single_values
from batcher.telemetry.families import tracing


class TracingPart:
    """Asks `counts` for the number of spans by result at every scrape."""

    families = tracing.FAMILIES

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self, _: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        counted = self._counts()
        yield single_values(
            tracing.TRACE_SPANS,
            (((result,), counted.get(result, 0)) for result in tracing.RESULTS),
        )
