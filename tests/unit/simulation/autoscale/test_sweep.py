"""A sweep on a small fleet, and the set-points it tries."""

from dataclasses import replace

import numpy as np
import pytest

from batcher.autoscaling import HpaSettings, KedaSettings
from batcher.clock import SECOND
from batcher.config import parse_config
from batcher.errors import InputError
from batcher.simulation.autoscale.points import default_set_points, point_of
from batcher.simulation.autoscale.sweep import Sweep, play, points
from batcher.simulation.engine.scenario import Costs, deployment_of
from batcher.simulation.fleet import FleetSettings, Processor, Signal, Span, StartUp
from batcher.simulation.traffic.arrivals import Gamma, Mmpp, Poisson
from batcher.simulation.traffic.day import Day
from batcher.simulation.traffic.workload import Mix, Traffic

CONFIG = """
models:
  - name: m
    executor: emulated
    options: {base: 100ms, per_row: 25ms}
    batching: {max_batch_size: 4, target_p99: 500ms}
"""
MODELS = Mix.of(("m", 1.0))
DEPLOYMENT = deployment_of(parse_config(CONFIG), MODELS, Costs())
"""20 requests a second."""


@pytest.fixture
def sweep():
    return Sweep(
        FleetSettings(DEPLOYMENT, start_up=StartUp(image=Span(10 * SECOND))),
        Traffic(MODELS),
        Poisson(50.0),
        {Signal.DESIRED_RATIO: (0.5, 1.0), Signal.DUTY_CYCLE: (0.8,)},
        HpaSettings(1, 20),
        duration_ns=40 * SECOND,
        seeds=(1, 2),
    )


def test_every_set_point_of_every_signal_is_one_point(sweep):
    loads = [sweep.load(seed) for seed in sweep.seeds]
    steps = []
    found = list(points(sweep, lambda what, count: steps.append((what, count)), loads))
    assert [(each.signal, each.set_point) for each in found] == [
        (Signal.DESIRED_RATIO, 0.5),
        (Signal.DESIRED_RATIO, 1.0),
        (Signal.DUTY_CYCLE, 0.8),
    ]
    assert sum(count for _, count in steps) == 3 * sum(map(len, loads))
    assert {what for what, _ in steps} == {"desired_ratio 0.5", "desired_ratio 1", "duty_cycle 0.8"}
    for each in found:
        parts = each.on_time + each.late + each.refused + each.lost
        assert parts == each.requests == np.mean([len(load) for load in loads])
        assert each.mean_replicas <= each.peak_replicas <= 21
        assert each.replica_hours == pytest.approx(each.mean_replicas * 40 / 3600, rel=0.02)
    assert found[0].replica_hours > found[1].replica_hours


def test_equal_seeds_equal_runs(sweep):
    first, again = (
        point_of(Signal.DUTY_CYCLE, 0.8, play(sweep, Signal.DUTY_CYCLE, 0.8, 3)) for _ in "ab"
    )
    assert first == again


def test_the_fleet_starts_with_what_the_first_minutes_need(sweep):
    # 50 requests a second, replicas of 20 that carry 0.6 each: 4.2.
    assert sweep.start_size(sweep.load(0)) == 5
    assert replace(sweep, hpa=HpaSettings(8, 20)).start_size(sweep.load(0)) == 8
    assert replace(sweep, hpa=HpaSettings(1, 3)).start_size(sweep.load(0)) == 3
    assert replace(sweep, keda=KedaSettings(6, 20)).start_size(sweep.load(0)) == 6
    assert replace(sweep, start=0).start_size(sweep.load(0)) == 0


@pytest.mark.parametrize("process", [Poisson(50.0), Gamma(50.0, 8.0), Mmpp(50.0), Day(50.0, 30.0)])
def test_arrivals_fill_the_duration(sweep, process):
    found = replace(sweep, arrivals=process, duration_ns=20 * SECOND).load(3).at_ns
    assert 15 * SECOND < found[-1] <= 20 * SECOND
    assert len(replace(sweep, arrivals=process, requests=7).load(3)) == 7


def test_no_request_is_no_run(sweep):
    with pytest.raises(InputError, match="no request arrives"):
        replace(sweep, duration_ns=1).load(0)


@pytest.mark.parametrize("signal", Signal)
def test_default_set_points_suit_the_deployment(signal):
    found = default_set_points(signal, DEPLOYMENT, Traffic(MODELS), Processor(batch_share=0.5))
    assert list(found) == sorted(set(found))
    assert 6 <= len(found) <= 12
    assert found[0] >= 0.001
    highest = {
        Signal.QUEUE_REQUESTS: 12,
        Signal.OLDEST_AGE: 0.5,
        Signal.WORK_SECONDS: 0.5,
        Signal.DESIRED_RATIO: 1.3,
    }
    assert found[-1] == pytest.approx(
        highest.get(signal, 0.98 if signal is not Signal.CPU else 0.5), rel=0.05
    )
