"""The rule of `batcher suggest`, asked of the production scheduler."""

from collections import Counter
from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.config import parse_config
from batcher.simulation.compare.suggest import (
    Asked,
    Goal,
    Load,
    best_buckets,
    curve,
    curve_at,
    in_units,
    largest_that_helps,
    round_times,
    row_rates,
    shortest_target,
    spread_of,
)
from batcher.simulation.engine.profile import ModelProfile, SizeProfile
from batcher.simulation.traffic.arrivals import Poisson

CONFIG = parse_config("""
models:
  - name: m
    executor: elsewhere
    batching: {max_batch_size: 32, utilization_target: 0.7, target_p99: 9ms}
  - name: padded
    executor: elsewhere
    padding: [{input: x, axis: 1, buckets: [50, 200]}]
""")
SIZES = (1, 2, 4, 8, 16, 32)


def took(rows, length=100, spread=1.0):
    ms = 5.0 + 0.005 * rows * length
    return SizeProfile(
        20, ms, {"p50": ms, "p90": ms * spread, "p95": ms * spread, "p99": ms * spread}
    )


def asked(name="m", **given):
    model = next(each for each in CONFIG.models if each.name == name)
    buckets = {}
    if name == "padded":
        buckets = {n: {rows: took(rows, n) for rows in SIZES} for n in (50, 200)}
    profile = ModelProfile(name, "1", "elsewhere", "cpu", {r: took(r) for r in SIZES}, buckets)
    parts = {"load": Load(Poisson()), "requests": 1500}
    return Asked(CONFIG, name, model, profile, **(parts | given))


def test_a_size_is_taken_that_serves_more_than_the_one_taken_before():
    rates = {1: 100.0, 2: 104.0, 4: 106.0, 8: 110.0, 16: 111.0}
    assert largest_that_helps(rates, 0.05) == 4
    assert largest_that_helps(rates, 0.0) == 16
    assert largest_that_helps(rates, 0.2) == 1
    assert largest_that_helps({8: 1.0}, 0.05) == 8


def test_round_times_reach_from_one_row_to_a_backlog():
    times = round_times(5_500_000, 70 * MILLISECOND)
    assert [in_units(each) for each in times] == (
        [
            "6ms",
            "8ms",
            "10ms",
            "12ms",
            "15ms",
            "20ms",
            "25ms",
            "30ms",
            "40ms",
            "50ms",
            "60ms",
            "80ms",
        ]
    )
    assert round_times(SECOND, SECOND) == [SECOND]
    assert in_units(120 * MILLISECOND) == "120ms"
    assert in_units(1500) == "1.5us"


def test_the_settings_keep_what_the_model_has_set_and_load():
    assert asked().batching(16, 50 * MILLISECOND) == {
        "policy": "adaptive",
        "max_batch_size": 16,
        "target_p99": "50ms",
        "limit": "1s",
        "utilization_target": 0.7,
    }
    waiting = asked(load=Load(Poisson(), deadline_ns=2 * SECOND))
    assert waiting.batching(16, 200 * MILLISECOND)["limit"] == "deadline"
    assert asked().batching(16, 200 * MILLISECOND)["limit"] == "2s"


def test_the_shortest_target_holds_and_the_one_before_it_does_not():
    question = asked()
    found = shortest_target(question, 32, (), 400.0)
    assert found.target_ns is not None
    by_target = {each.target_ns: each.in_time for each in found.tried}
    assert by_target[found.target_ns] >= 0.99
    targets = question.targets(32, ())
    before = targets[targets.index(found.target_ns) - 1]
    assert question.run(32, before, (), 480.0).in_time < 0.99
    assert all(each.summary.rate == pytest.approx(480, rel=0.1) for each in found.tried)


@pytest.mark.slow
def test_a_higher_rate_needs_a_longer_target_and_beyond_capacity_none_holds():
    question = asked(goal=Goal(headroom=0.0))
    capacity = question.capacity(32, ())
    calm, busy, beyond = (
        shortest_target(question, 32, (), share * capacity).target_ns for share in (0.2, 0.9, 1.5)
    )
    assert calm is not None
    assert busy is not None
    assert calm < busy
    assert beyond is None


def test_the_curve_reaches_into_overload():
    question = replace(asked(), requests=300)
    found = shortest_target(question, 32, (), 300.0)
    assert found.target_ns is not None
    loads = [each.summary.load for each in curve(question, found, found.target_ns)]
    assert loads[0] < 0.2
    assert loads[-1] > 1.1


def test_times_vary_as_measured():
    even = asked().profile
    assert spread_of(even).spread == 0.0
    uneven = replace(even, sizes={1: took(1, spread=1.2), 2: took(2, spread=1.2)})
    assert spread_of(uneven).kind == "lognormal"
    assert spread_of(uneven).spread == pytest.approx(0.143, abs=0.002)


def test_a_bucket_between_two_measured_ones_lies_on_the_line():
    profile = asked("padded").profile
    assert curve_at(profile, 50, 32)[32] == 13 * MILLISECOND
    assert curve_at(profile, 200, 32)[32] == 37 * MILLISECOND
    assert curve_at(profile, 125, 32)[32] == 25 * MILLISECOND


def test_lengths_weigh_what_a_batch_takes():
    short, long = (
        row_rates(asked("padded", load=Load(Poisson(), lengths=Counter({n: 9}))))[32]
        for n in (10, 150)
    )
    assert short == pytest.approx(32_000 / 13)
    assert long == pytest.approx(32_000 / 37)


@pytest.mark.slow
def test_buckets_are_chosen_by_the_target_they_allow():
    lengths = Counter({20: 90, 190: 10})
    question = asked("padded", load=Load(Poisson(), lengths=lengths), requests=1000)
    best, *others = best_buckets(question, 32, 600.0)
    assert best.target_ns is not None
    assert all(best.target_ns <= (each.target_ns or 0) for each in others)
    assert (50, 200) in {each.buckets for each in (best, *others)}
    assert best.buckets[-1] == 200
    alone = best_buckets(asked("padded", requests=500), 32, 300.0)
    assert [each.buckets for each in alone] == [(50, 200)], "no lengths, no other buckets"
