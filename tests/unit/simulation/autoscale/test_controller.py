"""What a simulated autoscaler makes of the readings of replicas."""

from dataclasses import dataclass, field

import pytest

from batcher.autoscaling import HpaSettings, KedaSettings, default_scale_down
from batcher.clock import SECOND
from batcher.simulation.autoscale.controller import Autoscaler, Scaling
from batcher.simulation.fleet import FleetView, ReplicaView, Sample, Signal

HPA = HpaSettings(max_replicas=100, scale_down=default_scale_down(0))


@dataclass
class Seen:
    """Replicas as a controller sees them at 60 s; the reading is of 59 s."""

    signal: Signal = Signal.DESIRED_RATIO
    set_point: float = 0.5
    keda: KedaSettings | None = None
    average_ns: int = 0
    at_s: int = 60
    replicas: list = field(default_factory=list)

    def __post_init__(self):
        self.controller = Autoscaler(
            Scaling(self.signal, self.set_point, HPA, self.keda, self.average_ns)
        )

    def add(self, value, ready_s=0, started_s=0, answers=True):
        values = {} if value is None else {self.signal: value}
        sample = (
            Sample((self.at_s - 1) * SECOND, values) if answers and ready_s is not None else None
        )
        self.replicas.append(
            ReplicaView(
                len(self.replicas),
                started_s * SECOND,
                None if ready_s is None else ready_s * SECOND,
                sample,
            )
        )
        return self

    def decide(self, waiting=0):
        view = FleetView(self.at_s * SECOND, len(self.replicas), tuple(self.replicas), waiting)
        return self.controller.sync(view).desired


def test_the_sum_over_replicas_is_divided_by_the_set_point():
    assert Seen().add(1.2).add(1.4).decide() == 6


def test_a_replica_that_starts_counts_as_nothing():
    assert Seen().add(1.2).add(1.4).add(None, ready_s=None).decide() == 6


def test_a_replica_that_became_ready_after_the_reading_counts_as_nothing():
    assert Seen().add(1.2).add(1.4).add(None, ready_s=59, answers=False).decide() == 6


@pytest.mark.parametrize("answers", [True, False])
def test_a_replica_without_a_value_counts_as_the_mean_of_the_others(answers):
    # 1.2 + 1.4 + 1.3
    assert Seen(set_point=1.0).add(1.2).add(1.4).add(None, answers=answers).decide() == 4


def test_without_any_value_the_size_stays():
    assert Seen().add(None).add(None, answers=False).decide() == 2


def test_processor_time_is_a_resource_metric():
    seen = Seen(Signal.CPU, at_s=600).add(0.9).add(0.9).add(None, ready_s=None, started_s=590)
    # Two at 0.9 and one that starts at 0: 0.6 of 0.5 each, ceil(1.2 x 3).
    assert seen.decide() == 4


def test_processor_time_of_a_replica_that_has_just_become_ready_is_left_out():
    seen = Seen(Signal.CPU, at_s=600).add(0.25).add(0.9, ready_s=590, started_s=550)
    assert seen.decide() == 1


def test_samples_are_averaged():
    seen = Seen(set_point=1.0, average_ns=30 * SECOND)
    assert seen.add(1.0).decide() == 1
    seen.at_s, seen.replicas = 75, []
    assert seen.add(3.0).decide() == 2
    # At 105 s the reading of 59 s is too old.
    seen.at_s, seen.replicas = 105, []
    assert seen.add(3.0).decide() == 3


def test_keda_wakes_a_fleet_that_sleeps_and_puts_it_to_sleep():
    seen = Seen(keda=KedaSettings(max_replicas=5, cooldown_ns=60 * SECOND))
    assert seen.decide() == 0
    assert seen.decide(waiting=1) == 1
    seen.add(0.0)
    seen.at_s = 90
    assert seen.decide() == 1
    seen.at_s = 150
    assert seen.decide() == 0


def test_it_is_called_when_either_is_due():
    assert Seen().controller.sync_ns == 15 * SECOND
    assert Seen(keda=KedaSettings(polling_ns=20 * SECOND)).controller.sync_ns == 5 * SECOND
    assert Seen(average_ns=SECOND).controller.sync_ns == SECOND
    seen = Seen(average_ns=SECOND, at_s=61).add(9.0)
    assert seen.decide() == 1
