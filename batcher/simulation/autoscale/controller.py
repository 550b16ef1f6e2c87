"""The autoscalers of Kubernetes as controllers of a simulated fleet."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from statistics import fmean

from batcher.autoscaling import (
    Decision,
    ExternalAverage,
    Hpa,
    HpaSettings,
    Keda,
    KedaSettings,
    Measured,
    Metric,
    Phase,
    Pod,
    PodsAverage,
)
from batcher.clock import SECOND
from batcher.simulation.fleet.controller import FleetView, ReplicaView
from batcher.simulation.fleet.signals import RATES, Signal

CPU_WINDOW_NS = 15 * SECOND
"""The window of a processor time as metrics-server tells it: its resolution."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """On what an autoscaler scales, and how.

    `set_point` is what the signal of one replica should be. `cpu` is a resource metric; every other signal is an
    external metric with `averageValue`: the sum over the replicas. With `average_ns` each replica's value is the mean
    of its samples of the last so long, where the signal is no rate, which is a mean already.
    """

    signal: Signal
    set_point: float
    hpa: HpaSettings
    keda: KedaSettings | None = None
    average_ns: int = 0
    read_ns: int = SECOND
    """How often samples are read, if they are averaged."""


@dataclass(slots=True)
class Autoscaler:
    """An HPA, under KEDA if there is one, as the controller of one run."""

    scaling: Scaling
    _hpa: Hpa = field(init=False)
    _keda: Keda | None = field(init=False)
    _average_ns: int = field(init=False)
    _values: dict[int, deque[tuple[int, float]]] = field(default_factory=lambda: defaultdict(deque))

    def __post_init__(self) -> None:
        scaling = self.scaling
        settings = scaling.hpa if scaling.keda is None else scaling.keda.hpa(scaling.hpa)
        self._hpa = Hpa(settings)
        self._keda = None if scaling.keda is None else Keda(scaling.keda)
        self._average_ns = 0 if scaling.signal in RATES else scaling.average_ns

    @property
    def sync_ns(self) -> int:
        """How often it is called: whenever the HPA or KEDA is due, or a sample to be averaged."""
        scaling = self.scaling
        due = [scaling.hpa.sync_ns]
        if scaling.keda is not None:
            due.append(scaling.keda.polling_ns)
        if self._average_ns:
            due.append(scaling.read_ns)
        return gcd(*due)

    @property
    def signals(self) -> Sequence[Signal]:
        """The one signal that it reads."""
        return (self.scaling.signal,)

    def sync(self, view: FleetView) -> Decision:
        """Decides now."""
        now_ns, size = view.now_ns, view.desired
        self._remember(view)
        total = self._total(view)
        reason = "not due"
        keda = self._keda
        if keda is not None and now_ns % keda.settings.polling_ns == 0:
            polled = keda.poll(now_ns, size, [self._active(view, total)])
            if polled != size:
                return Decision(polled, "activated" if polled > size else "deactivated")
        if now_ns % self.scaling.hpa.sync_ns == 0:
            return self._hpa.sync(now_ns, size, _pods(view), [self._metric(view, total)])
        return Decision(size, reason)

    def _active(self, view: FleetView, total: float | None) -> bool | None:
        """Whether anything is asked of the fleet, as a scaler says it; None if it cannot tell."""
        if view.waiting:
            return True
        if not view.replicas:
            return False
        return None if total is None else total > 0

    def _metric(self, view: FleetView, total: float | None) -> Metric:
        if self.scaling.signal is not Signal.CPU:
            return ExternalAverage(self.scaling.set_point, total)
        values = {
            str(replica.number): Measured(value, replica.sample.at_ns, CPU_WINDOW_NS)
            for replica in view.replicas
            if replica.sample is not None and (value := self._value(view, replica)) is not None
        }
        return PodsAverage(self.scaling.set_point, values, cpu=True)

    def _remember(self, view: FleetView) -> None:
        signal, oldest_ns = self.scaling.signal, view.now_ns - self._average_ns
        for replica in view.replicas:
            sample = replica.sample
            if sample is None or signal not in sample.values:
                continue
            values = self._values[replica.number]
            if not values or values[-1][0] < sample.at_ns:
                values.append((sample.at_ns, sample.values[signal]))
            while len(values) > 1 and values[0][0] < oldest_ns:
                values.popleft()

    def _value(self, view: FleetView, replica: ReplicaView) -> float | None:
        sample = replica.sample
        if sample is None or self.scaling.signal not in sample.values:
            return None
        if not self._average_ns:
            return sample.values[self.scaling.signal]
        oldest_ns = view.now_ns - self._average_ns
        recent = [value for at_ns, value in self._values[replica.number] if at_ns >= oldest_ns]
        return fmean(recent) if recent else sample.values[self.scaling.signal]

    def _total(self, view: FleetView) -> float | None:
        """The sum over the replicas, None if nothing is known.

        A replica that has become ready since the last reading counts as 0: what it will take is still in the readings
        of the others. One that was read without a value, or did not answer, counts as the mean of those with one.
        """
        known = []
        unknown = 0
        samples = [replica.sample for replica in view.replicas if replica.sample is not None]
        last_ns = max([sample.at_ns for sample in samples], default=0)
        for replica in view.replicas:
            if replica.ready_ns is None or replica.ready_ns >= last_ns:
                continue
            value = self._value(view, replica)
            if value is None:
                unknown += 1
            else:
                known.append(value)
        if not known:
            return None
        return sum(known) + unknown * fmean(known)


def _pods(view: FleetView) -> list[Pod]:
    return [
        Pod(
            str(replica.number),
            phase=Phase.PENDING if replica.ready_ns is None else Phase.RUNNING,
            ready=replica.ready_ns is not None,
            started_ns=replica.started_ns,
            ready_changed_ns=replica.started_ns if replica.ready_ns is None else replica.ready_ns,
        )
        for replica in view.replicas
    ]
