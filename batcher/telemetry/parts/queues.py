"""What waits and what executes now."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from batcher.clock import SECOND
from batcher.core.observation import ModelObservation, Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.export import Labels, single_values
from batcher.telemetry.families import queue


class QueuesPart:
    """Reads queues and instances from the scheduler."""

    families = queue.FAMILIES

    def __init__(self, models: CountedModels) -> None:
        self._models = models

    def collect(self, observation: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        yield from self._queues(observation)
        yield from self._instances(observation)

    def _queues(self, observation: Observation) -> Iterator[Metric]:
        models = self._models.observed(observation)
        yield single_values(
            queue.OLDEST_REQUEST_AGE,
            (
                ((*labels, state), (age_ns or 0) / SECOND)
                for labels, model in models
                for state, age_ns in (
                    ("waiting", model.oldest_waiting_ns),
                    ("executing", model.oldest_executing_ns),
                )
            ),
        )
        yield single_values(
            queue.OLDEST_REQUEST_TARGET_RATIO,
            (
                (labels, _oldest_ns(model) / model.target_ns)
                for labels, model in models
                if model.target_ns
            ),
        )
        yield single_values(queue.QUEUE_REQUESTS, ((ls, m.waiting_requests) for ls, m in models))
        yield single_values(queue.QUEUE_ROWS, ((ls, m.waiting_rows) for ls, m in models))
        yield single_values(queue.QUEUE_BYTES, ((ls, m.waiting_bytes) for ls, m in models))
        yield single_values(queue.QUEUE_BACKLOG, ((ls, m.backlog_ns / SECOND) for ls, m in models))
        yield single_values(
            queue.LATENCY_TARGET,
            ((ls, m.target_ns / SECOND) for ls, m in models if m.target_ns),
        )
        yield single_values(
            queue.LATENCY_TARGET_REACHABLE,
            ((ls, int(m.reachable)) for ls, m in models if m.target_ns),
        )
        yield single_values(queue.PREDICTION_MARGIN, ((ls, m.margin) for ls, m in models))
        yield single_values(queue.PREDICTION_DRIFT, ((ls, m.drift) for ls, m in models))
        yield single_values(
            queue.PREDICTION_HANDLING, ((ls, m.handling_ns / SECOND) for ls, m in models)
        )
        yield single_values(queue.PREDICTION_COPY, ((ls, m.copy_ns / SECOND) for ls, m in models))
        yield single_values(
            queue.EXECUTING_REQUESTS, ((ls, m.executing_requests) for ls, m in models)
        )

    def _instances(self, observation: Observation) -> Iterator[Metric]:
        # A model whose instances are all gone must read 0: a series that vanishes raises no alert.
        known: list[Labels] = [model.labels for model in self._models]
        counts = {labels: {"up": 0, "draining": 0} for labels in known}
        in_flight = dict.fromkeys(known, 0)
        for instance in observation.instances:
            labels = self._models.labels(instance.model)
            if labels not in counts:
                continue
            counts[labels]["draining" if instance.draining else "up"] += 1
            in_flight[labels] += instance.in_flight
        yield single_values(
            queue.INSTANCES,
            (
                ((*labels, state), count)
                for labels, states in counts.items()
                for state, count in states.items()
            ),
        )
        yield single_values(queue.BATCHES_IN_FLIGHT, in_flight.items())


def _oldest_ns(model: ModelObservation) -> int:
    return max(model.oldest_waiting_ns or 0, model.oldest_executing_ns or 0)
