"""`Telemetry`: what was counted and what is true now, as one Prometheus collector."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from batcher import __version__
from batcher.clock import SECOND, Clock, monotonic_ns
from batcher.core.commands import Outcome
from batcher.core.observation import ModelObservation, Observation
from batcher.journal import IncidentReason, RecordingStatistics, Tally
from batcher.telemetry.export import Labels, empty, histograms, single_values
from batcher.telemetry.families import (
    FAMILIES,
    LATENCY,
    Family,
    batches,
    models,
    process,
    queue,
    recording,
    repository,
    requests,
    sequences,
    transport,
)
from batcher.telemetry.generations import merged
from batcher.telemetry.histogram import Histogram
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.reasons import UnreadReason
from batcher.telemetry.repository import RepositoryPoints
from batcher.telemetry.settings import SettingsTelemetry
from batcher.telemetry.tally import tally
from batcher.telemetry.transport import TransportPoints


@dataclass(frozen=True, slots=True)
class HealthPoints:
    """Whether the server is ready, and for each model 1 for the state that it is in, 0 for the others."""

    ready: bool = False
    states: Sequence[tuple[Labels, int]] = ()
    instances: Sequence[tuple[Labels, int]] = ()
    """The same of each instance."""
    abandoned: Sequence[tuple[Labels, int]] = ()
    """Abandoned threads of each model."""


_NOTHING = Observation(now_ns=0, models=(), instances=())


class Telemetry(Collector):
    """Owns every metric of the server and registers itself with `registry`.

    Recording and scraping happen on the event loop's thread. Set `draining` when the server begins
    to shut down.
    """

    def __init__(self, registry: CollectorRegistry, *, clock: Clock = monotonic_ns) -> None:
        self.draining = False
        self.settings = SettingsTelemetry()
        self._models: dict[tuple[str, str], ModelTelemetry] = {}
        self._keys: dict[str, ModelTelemetry] = {}
        """What `Observation` calls a generation -> the counts of its model."""
        self._lag = Histogram(LATENCY)
        self._unread = dict.fromkeys(UnreadReason, 0)
        self._stalls = 0
        self._observe: Callable[[], Observation] = lambda: _NOTHING
        self._health: Callable[[], HealthPoints] = HealthPoints
        self._recording: Callable[[], RecordingStatistics] = RecordingStatistics
        self._transport: Callable[[], TransportPoints] = TransportPoints
        self._repository: Callable[[], RepositoryPoints | None] = lambda: None
        self._clock = clock
        registry.register(self)

    def watch(self, observe: Callable[[], Observation]) -> None:
        """Ask `observe` for the scheduler's live state at every scrape."""
        self._observe = observe

    def watch_health(self, health: Callable[[], HealthPoints]) -> None:
        """Ask `health` for the state of the server and of each model at every scrape."""
        self._health = health

    def watch_recording(self, statistics: Callable[[], RecordingStatistics]) -> None:
        """Ask `statistics` for what was recorded at every scrape."""
        self._recording = statistics

    def watch_transport(self, points: Callable[[], TransportPoints]) -> None:
        """Ask `points` for the counts of connections, calls and buffers at every scrape."""
        self._transport = points

    def watch_repository(self, points: Callable[[], RepositoryPoints]) -> None:
        """Ask `points` for the state of the model repository at every scrape."""
        self._repository = points

    def tallies(self) -> dict[str, Tally]:
        """Counts for the flight recorder, by the scheduler's name of each model."""
        return {f"{name}/{version}": tally(m) for (name, version), m in self._models.items()}

    def model(self, key: str, name: str, version: str) -> ModelTelemetry:
        """The counts of one model, which its generations share; made on first use.

        `key` is what `Observation` calls this generation; `name` and `version` become labels. Call
        `forget` when the generation is gone, and `remove` when the model is.
        """
        model = self._models.get((name, version))
        if model is None:
            model = ModelTelemetry(name, version, clock=self._clock)
            model.serving = key
            self._models[name, version] = model
        self._keys[key] = model
        return model

    def of_generation(self, key: str) -> ModelTelemetry | None:
        """The counts of the model that a generation is of; None for one that is not known."""
        return self._keys.get(key)

    def forget(self, key: str) -> None:
        """Note that a generation is gone. Its model keeps what was counted."""
        self._keys.pop(key, None)

    def remove(self, name: str, version: str) -> None:
        """Export nothing of a model any more; should it come back, its counts begin at 0."""
        self._models.pop((name, version), None)

    def refused_unread(self, reason: UnreadReason) -> None:
        """Count a request that belongs to no model; the name that it asked for never becomes a label."""
        self._unread[reason] += 1

    def loop_lag(self, seconds: float) -> None:
        """Record how late the event loop was."""
        self._lag.observe(seconds * SECOND)

    def loop_stalled(self, _: float) -> None:
        """Count a stall of the event loop (its length in seconds is not kept)."""
        self._stalls += 1

    def describe(self) -> Iterator[Metric]:
        """Every family, without samples: what the registry checks for clashes."""
        return (empty(family) for family in FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """Every family with its samples of this moment, in the order of `FAMILIES`."""
        observation = self._observe()
        yield from self._collect_server()
        yield from self._collect_queues(observation)
        yield from self._collect_instances(observation)
        yield from self._collect_requests()
        yield from self._collect_batches()
        yield from self._collect_failures(observation)
        yield from self._collect_models(observation)
        yield from self._collect_sequences(observation)
        yield from self._collect_recording()
        yield from self._collect_transport()
        yield from self._collect_repository()

    def _collect_server(self) -> Iterator[Metric]:
        build = (__version__, platform.python_version())
        yield single_values(process.BUILD_INFO, [(build, 1)])
        yield single_values(process.DRAINING, [((), int(self.draining))])
        health = self._health()
        yield single_values(process.READY, [((), int(health.ready))])
        yield single_values(process.MODEL_STATE, health.states)
        yield histograms(process.EVENT_LOOP_LAG, [((), self._lag)])
        yield single_values(process.EVENT_LOOP_STALLS, [((), self._stalls)])
        yield single_values(process.SETTINGS_CHANGES, self.settings.changes.items())
        yield single_values(process.SETTINGS_GENERATION, [((), self.settings.generation)])
        yield single_values(process.SETTINGS_CHANGED_AT, [((), self.settings.changed_at_s)])

    def _collect_queues(self, observation: Observation) -> Iterator[Metric]:
        models = self._observed(observation)
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

    def _collect_instances(self, observation: Observation) -> Iterator[Metric]:
        # A model whose instances are all gone must read 0: a series that vanishes raises no alert.
        waiting = (model.model for model in observation.models)
        running = (instance.model for instance in observation.instances)
        known: list[Labels] = [model.labels for model in self._models.values()]
        models = dict.fromkeys((*known, *map(self._labels, (*waiting, *running))))
        counts = {labels: {"up": 0, "draining": 0} for labels in models}
        in_flight = dict.fromkeys(models, 0)
        for instance in observation.instances:
            labels = self._labels(instance.model)
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

    def _collect_requests(self) -> Iterator[Metric]:
        counted = self._models.values()
        for model in counted:
            model.fold()
        yield single_values(
            requests.REQUESTS,
            [
                *((("", "", Outcome.REJECTED, key), count) for key, count in self._unread.items()),
                *(((*m.labels, *key), count) for m in counted for key, count in m.requests.items()),
            ],
        )
        yield single_values(
            requests.PREDICTED_REFUSALS,
            (((*m.labels, cause), n) for m in counted for cause, n in m.refused.items()),
        )
        yield histograms(
            requests.REQUEST_DURATION,
            (
                ((*m.labels, outcome), histogram)
                for m in counted
                for outcome, histogram in m.durations.items()
                # Most models never see most outcomes, and each would cost thirty lines a scrape.
                if outcome is Outcome.OK or histogram.total
            ),
        )
        yield histograms(
            requests.STAGE_DURATION,
            (((*m.labels, key), value) for m in counted for key, value in m.stages.items()),
        )
        yield single_values(
            requests.LATENCY_TARGET_MISSED, ((m.labels, m.target_missed) for m in counted)
        )

    def _collect_batches(self) -> Iterator[Metric]:
        counted = self._models.values()
        yield self._histogram(batches.BATCH_ROWS, lambda m: m.batch_rows)
        yield self._histogram(batches.BATCH_REQUESTS, lambda m: m.batch_requests)
        yield self._histogram(batches.BATCH_FILL_RATIO, lambda m: m.batch_fill)
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

    def _collect_failures(self, observation: Observation) -> Iterator[Metric]:
        counted = self._models.values()
        yield single_values(
            batches.UNFINISHED_BATCHES,
            (((*m.labels, cause), n) for m in counted for cause, n in m.unfinished.items()),
        )
        yield single_values(
            batches.POLICY_FAILURES, ((m.labels, m.policy_failures) for m in counted)
        )
        observed = self._observed(observation)
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

    def _collect_models(self, observation: Observation) -> Iterator[Metric]:
        every = self._models.values()
        yield self._histogram(models.MODEL_LOAD_DURATION, lambda m: m.load_duration)
        yield self._histogram(models.MODEL_WARMUP_DURATION, lambda m: m.warmup_duration)
        yield self._histogram(models.MODEL_FIRST_ANSWER_DURATION, lambda m: m.first_answer)
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
        for labels, now in self._observed(observation):
            repeated[labels] = repeated.get(labels, 0) + now.saved_requests
        yield single_values(models.REPEATED_REQUESTS, repeated.items())

    def _collect_sequences(self, observation: Observation) -> Iterator[Metric]:
        counted = [
            (m.labels, m.sequences) for m in self._models.values() if m.sequences is not None
        ]
        yield single_values(sequences.SEQUENCES_OPEN, ((ls, c.open) for ls, c in counted))
        yield single_values(sequences.SEQUENCE_STATE, ((ls, c.state_bytes) for ls, c in counted))
        yield single_values(sequences.SEQUENCES_STARTED, ((ls, c.started) for ls, c in counted))
        yield single_values(
            sequences.SEQUENCES_ENDED,
            (((*ls, end), n) for ls, c in counted for end, n in c.ended.items()),
        )
        known = {labels for labels, _ in counted}
        held = [(ls, m.held_requests) for ls, m in self._observed(observation) if ls in known]
        yield single_values(sequences.SEQUENCE_STEPS_HELD, held)

    def _collect_recording(self) -> Iterator[Metric]:
        recorded = self._recording()
        yield single_values(recording.JOURNAL_BYTES, [((), recorded.written_bytes)])
        yield single_values(recording.JOURNAL_LOST_SEGMENTS, [((), recorded.lost_segments)])
        yield single_values(recording.FLIGHT_RECORDER_MEMORY, [((), recorded.memory_bytes)])
        yield single_values(
            recording.INCIDENTS,
            (((reason,), recorded.incidents.get(reason, 0)) for reason in IncidentReason),
        )

    def _collect_transport(self) -> Iterator[Metric]:
        points = self._transport()
        open_now = [] if points.connections is None else [((), points.connections)]
        yield single_values(transport.CONNECTIONS, open_now)
        for family, values in (
            (transport.CONNECTION_EVENTS, points.events),
            (transport.CONNECTION_ERRORS, points.errors),
            (transport.STREAM_EVENTS, points.streams),
            (transport.GOAWAYS, points.goaways),
        ):
            yield single_values(family, (((name,), count) for name, count in values.items()))
        yield single_values(transport.BUFFERED, [((), points.buffered)])
        yield single_values(transport.BUFFERED_LIMIT, [((), points.buffered_limit)])
        yield single_values(transport.BUFFERED_PEAK, [((), points.buffered_peak)])
        yield single_values(transport.BUFFER_REFUSALS, [((), points.buffer_refusals)])

    def _collect_repository(self) -> Iterator[Metric]:
        points = self._repository()
        there = [] if points is None else [points]
        for family, values in (
            (repository.REPOSITORY_READABLE, [int(each.readable) for each in there]),
            (repository.REPOSITORY_MODELS, [each.models for each in there]),
            (repository.REPOSITORY_BROKEN, [each.broken for each in there]),
        ):
            yield single_values(family, [((), value) for value in values])
        scans = {} if points is None else points.scans
        yield single_values(
            repository.REPOSITORY_SCANS, (((result,), count) for result, count in scans.items())
        )

    def _histogram(self, family: Family, of: Callable[[ModelTelemetry], Histogram]) -> Metric:
        return histograms(family, ((m.labels, of(m)) for m in self._models.values()))

    def _labels(self, key: str) -> Labels:
        """The labels of a model that the scheduler knows; it may know one that never recorded."""
        model = self._keys.get(key)
        return model.labels if model is not None else (key, "")

    def _observed(self, observation: Observation) -> list[tuple[Labels, ModelObservation]]:
        """The labels of each model, and what is observed of all its generations."""
        generations: dict[Labels, list[ModelObservation]] = {}
        for model in observation.models:
            generations.setdefault(self._labels(model.model), []).append(model)
        serving: dict[Labels, str] = {
            model.labels: model.serving for model in self._models.values()
        }
        return [(ls, merged(found, serving.get(ls, ""))) for ls, found in generations.items()]


def _oldest_ns(model: ModelObservation) -> int:
    return max(model.oldest_waiting_ns or 0, model.oldest_executing_ns or 0)
