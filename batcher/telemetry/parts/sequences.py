"""Open sequences and how they end."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from batcher.core.observation import Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.export import single_values
from batcher.telemetry.families import sequences


class SequencesPart:
    """Exports the sequences of the models that have any."""

    families = sequences.FAMILIES

    def __init__(self, models: CountedModels) -> None:
        self._models = models

    def collect(self, observation: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        counted = [(m.labels, m.sequences) for m in self._models if m.sequences is not None]
        yield single_values(sequences.SEQUENCES_OPEN, ((ls, c.open) for ls, c in counted))
        yield single_values(sequences.SEQUENCE_STATE, ((ls, c.state_bytes) for ls, c in counted))
        yield single_values(sequences.SEQUENCES_STARTED, ((ls, c.started) for ls, c in counted))
        yield single_values(
            sequences.SEQUENCES_ENDED,
            (((*ls, end), n) for ls, c in counted for end, n in c.ended.items()),
        )
        known = {labels for labels, _ in counted}
        held = [
            (ls, m.held_requests) for ls, m in self._models.observed(observation) if ls in known
        ]
        yield single_values(sequences.SEQUENCE_STEPS_HELD, held)
