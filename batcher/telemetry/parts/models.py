"""Models are loaded, loaded again and replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from batcher.core.observation import Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.export import Labels, single_values
from batcher.telemetry.families import models
from batcher.telemetry.parts.part import HealthPoints


class ModelsPart:
    """Exports the loads and instances of every model."""

    families = models.FAMILIES

    def __init__(self, models: CountedModels, health: Callable[[], HealthPoints]) -> None:
        self._models = models
        self._health = health

    def collect(self, observation: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        every = self._models
        yield self._models.histogram(models.MODEL_LOAD_DURATION, lambda m: m.load_duration)
        yield self._models.histogram(models.MODEL_WARMUP_DURATION, lambda m: m.warmup_duration)
        yield self._models.histogram(models.MODEL_FIRST_ANSWER_DURATION, lambda m: m.first_answer)
        yield single_values(
            models.MODEL_LOAD_FAILURES, ((m.labels, m.load_failures) for m in every)
        )
        yield single_values(
            models.MODEL_RELOADS,
            (((*m.labels, result), n) for m in every for result, n in m.reloads.items()),
        )
        yield single_values(models.MODEL_GENERATION, ((m.labels, m.generation) for m in every))
        health = self._health()
        yield single_values(models.INSTANCE_STATE, health.instances)
        yield single_values(
            models.INSTANCE_LOSSES,
            (((*m.labels, reason), n) for m in every for reason, n in m.losses.items()),
        )
        yield single_values(models.ABANDONED_THREADS, health.abandoned)
        repeated: dict[Labels, int] = {m.labels: m.saved_requests for m in every}
        for labels, now in self._models.observed(observation):
            repeated[labels] = repeated.get(labels, 0) + now.saved_requests
        yield single_values(models.REPEATED_REQUESTS, repeated.items())
