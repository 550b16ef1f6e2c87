"""Triton's names for what this server counts, beside its own names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric

from batcher.clock import Clock
from batcher.core.commands import Outcome, Reason
from batcher.core.observation import Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.devices import DeviceStatistics
from batcher.telemetry.export import Labels, Point, VerbatimFamily
from batcher.telemetry.families import Family, triton
from batcher.telemetry.machine import Machine
from batcher.telemetry.reasons import AdmissionReason, End, ReplyReason
from batcher.telemetry.statistics import ModelStatisticsSnapshot

_OTHER: Final = frozenset(
    (
        AdmissionReason.INVALID,
        AdmissionReason.UNAVAILABLE,
        AdmissionReason.DRAINING,
        AdmissionReason.SEQUENCE,
        Reason.UNKNOWN_MODEL,
        Reason.MODEL_REMOVED,
        Reason.NO_INSTANCE,
        Reason.TOO_MANY_ROWS,
        Reason.TOO_MANY_BYTES,
        *ReplyReason,
    )
)
"""Reasons that say nothing of a full queue, of time or of the executor."""

_DURATIONS: Final[tuple[tuple[Family, Callable[[ModelStatisticsSnapshot], int]], ...]] = (
    (triton.REQUEST_DURATION, lambda of: of.success.ns),
    (triton.QUEUE_DURATION, lambda of: of.queue.ns),
    (triton.INPUT_DURATION, lambda of: of.compute_input.ns),
    (triton.INFER_DURATION, lambda of: of.compute_infer.ns),
    (triton.OUTPUT_DURATION, lambda of: of.compute_output.ns),
)

_GAUGES: Final[tuple[tuple[Family, Callable[[DeviceStatistics], float | None]], ...]] = (
    (triton.GPU_UTILIZATION, lambda of: of.utilization),
    (triton.GPU_MEMORY_TOTAL, lambda of: of.memory_total),
    (triton.GPU_MEMORY_USED, lambda of: of.memory_used),
    (triton.GPU_POWER, lambda of: of.power_w),
)


def failure_of(end: End) -> str | None:
    """Triton's reason for a request that ended so; None for one that was answered."""
    outcome, reason = end
    if outcome is Outcome.OK:
        return None
    if outcome is Outcome.CANCELLED:
        return "CANCELED"
    if reason in _OTHER:
        return "OTHER"
    return "BACKEND" if outcome is Outcome.FAILED else "REJECTED"


class TritonPart:
    """Exports the counts of `models` and the statistics of `devices` under Triton's names.

    What is not known is absent. Everything is counted already, so a request costs nothing more.
    """

    families = triton.FAMILIES

    def __init__(
        self,
        models: CountedModels,
        devices: Callable[[], Iterable[DeviceStatistics]],
        clock: Clock,
    ) -> None:
        self._models = models
        self._devices = devices
        self._machine = Machine(clock)
        self._energy_before: dict[str, float] = {}
        """GPU -> joules when they were first read."""

    def collect(self, observation: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        yield from self._requests()
        waiting = self._models.observed(observation)
        yield VerbatimFamily(triton.PENDING, ((ls, m.waiting_requests) for ls, m in waiting))
        yield from self._gpus()
        yield from self._cpus()

    def _requests(self) -> Iterator[Metric]:
        found = [(model, model.statistics()) for model in self._models]
        yield VerbatimFamily(triton.SUCCESS, ((m.labels, s.success.count) for m, s in found))
        failures: list[Point] = []
        for model, _ in found:
            counts = dict.fromkeys(triton.FAILURES, 0)
            for end, count in model.requests.items():
                if (failure := failure_of(end)) is not None:
                    counts[failure] += count
            failures += [((*model.labels, reason), count) for reason, count in counts.items()]
        yield VerbatimFamily(triton.FAILURE, failures)
        yield VerbatimFamily(triton.COUNT, ((m.labels, s.inference_count) for m, s in found))
        yield VerbatimFamily(triton.EXECUTIONS, ((m.labels, s.execution_count) for m, s in found))
        for family, ns in _DURATIONS:
            yield VerbatimFamily(family, ((m.labels, ns(s) // 1000) for m, s in found))

    def _gpus(self) -> Iterator[Metric]:
        # Several devices may be on one GPU, whose statistics they share.
        gpus = {each.uuid: each for each in self._devices() if each.uuid}
        for family, of in _GAUGES:
            values = ((uuid, of(each)) for uuid, each in gpus.items())
            yield VerbatimFamily(family, (((uuid,), v) for uuid, v in values if v is not None))
        used: list[tuple[Labels, float]] = []
        for uuid, each in gpus.items():
            if each.energy_j is not None:
                before = self._energy_before.setdefault(uuid, each.energy_j)
                used.append(((uuid,), max(each.energy_j - before, 0.0)))
        yield VerbatimFamily(triton.ENERGY, used)

    def _cpus(self) -> Iterator[Metric]:
        utilization, memory = self._machine.utilization(), self._machine.memory()
        share = [] if utilization is None else [utilization]
        for family, values in (
            (triton.CPU_UTILIZATION, share),
            (triton.CPU_MEMORY_TOTAL, memory[:1] if memory else ()),
            (triton.CPU_MEMORY_USED, memory[1:] if memory else ()),
        ):
            yield VerbatimFamily(family, [((), value) for value in values])
