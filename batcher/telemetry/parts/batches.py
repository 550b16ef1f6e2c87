"""What was executed, on which device, and what failed."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from batcher.clock import SECOND, Clock
from batcher.core.observation import Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.export import Labels, single_values
from batcher.telemetry.families import batches


class BatchesPart:
    """Exports the batches of every model."""

    families = batches.FAMILIES

    def __init__(self, models: CountedModels, clock: Clock) -> None:
        self._models = models
        self._clock = clock

    def collect(self, observation: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        yield from self._executed()
        yield from self._failures(observation)

    def _executed(self) -> Iterator[Metric]:
        counted = self._models
        yield self._models.histogram(batches.BATCH_ROWS, lambda m: m.batch_rows)
        yield self._models.histogram(batches.BATCH_REQUESTS, lambda m: m.batch_requests)
        yield self._models.histogram(batches.BATCH_FILL_RATIO, lambda m: m.batch_fill)
        yield single_values(
            batches.BATCH_ELEMENTS,
            (((*m.labels, kind), n) for m in counted for kind, n in m.elements.items()),
        )
        now_ns = self._clock()
        yield single_values(
            batches.EXECUTOR_BUSY,
            (
                ((*m.labels, device), busy_ns / SECOND)
                for m in counted
                for device, busy_ns in m.busy_ns(now_ns).items()
            ),
        )

    def _failures(self, observation: Observation) -> Iterator[Metric]:
        counted = self._models
        yield single_values(
            batches.UNFINISHED_BATCHES,
            (((*m.labels, cause), n) for m in counted for cause, n in m.unfinished.items()),
        )
        yield single_values(
            batches.POLICY_FAILURES, ((m.labels, m.policy_failures) for m in counted)
        )
        observed = self._models.observed(observation)
        bisected: dict[Labels, tuple[int, int]] = {
            m.labels: (m.bisected_batches, m.bisect_executions) for m in counted
        }
        for labels, now in observed:
            batches_before, executions_before = bisected.get(labels, (0, 0))
            bisected[labels] = (
                batches_before + now.bisected_batches,
                executions_before + now.bisect_executions,
            )
        yield single_values(batches.BISECTIONS, ((ls, n) for ls, (n, _) in bisected.items()))
        yield single_values(
            batches.BISECTION_EXECUTIONS, ((ls, n) for ls, (_, n) in bisected.items())
        )
        yield single_values(batches.FAILURE_STORM, ((ls, int(m.storm)) for ls, m in observed))
        yield single_values(batches.BATCH_CEILING, ((ls, m.ceiling_rows) for ls, m in observed))
