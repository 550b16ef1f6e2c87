from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from batcher.clock import SECOND
from batcher.errors import InputError
from batcher.simulation.fleet.balancers import (
    LeastRequest,
    LeastRequestPicker,
    Orca,
    Report,
    RoundRobin,
    RoundRobinPicker,
    parse_balancer,
)
from batcher.simulation.fleet.weighted import MOST, Weight, WeightedPicker, shares


class Replica:
    def __init__(self, number, report=None, clients=1):
        self.number = number
        self.outstanding = [0] * clients
        self.sent = [0] * clients
        self.shown = report

    def advance(self, until_ns):
        pass

    def report(self, now_ns):
        return self.shown


def test_balancers_have_names():
    assert parse_balancer("round_robin") == RoundRobin()
    assert parse_balancer("least_request") == LeastRequest(2)
    assert parse_balancer("orca") == Orca()
    with pytest.raises(InputError, match="allowed: round_robin, least_request, orca"):
        parse_balancer("random")


def test_round_robin_has_a_place_for_each_client():
    picker = RoundRobinPicker(2, Random(1))
    replicas = [Replica(number) for number in range(3)]
    picker.changed(replicas, 0)
    for client in range(2):
        numbers = [picker.pick(client, 0).number for _ in range(7)]
        assert all((after - before) % 3 == 1 for before, after in pairwise(numbers))


def test_least_request_takes_the_less_busy_one_of_those_that_it_draws():
    replicas = [Replica(number) for number in range(4)]
    replicas[0].outstanding[0] = 100
    picker = LeastRequestPicker(2, Random(1))
    picker.changed(replicas, 0)
    chosen = Counter(picker.pick(0, 0).number for _ in range(160))
    # Only where both draws are the busy one it is taken: 1 of 16.
    assert 2 <= chosen[0] <= 25
    assert sum(each.outstanding[0] for each in replicas) == 260


def test_a_full_scan_takes_the_least_busy_one_of_all():
    replicas = [Replica(number) for number in range(4)]
    for replica, unanswered in zip(replicas, (3, 1, 2, 1), strict=True):
        replica.outstanding[0] = unanswered
    picker = LeastRequestPicker(0, Random(1))
    picker.changed(replicas, 0)
    assert {picker.pick(0, 0).number, picker.pick(0, 0).number} == {1, 3}


def test_a_weight_is_requests_over_utilization_and_errors():
    weight = Weight()
    weight.take(Report(100.0, 20.0, 0.5), 1.0, 0)
    assert weight.value == pytest.approx(100 / (0.5 + 0.2))
    for nothing in (Report(0.0, 0.0, 0.5), Report(100.0, 0.0, 0.0), Report(100.0, 0.0, None)):
        weight.take(nothing, 1.0, 5)
        assert (weight.value, weight.last_ns) == (pytest.approx(100 / 0.7), 0)


def test_a_weight_counts_after_the_blackout_and_until_it_expires():
    settings, weight = Orca(), Weight()
    assert weight.usable(settings, 0) == 0
    for second in range(3):
        weight.take(Report(10.0, 0.0, 0.5), 1.0, second * SECOND)
    assert weight.usable(settings, 10 * SECOND - 1) == 0
    assert weight.usable(settings, 10 * SECOND) == 20
    assert weight.usable(settings, 182 * SECOND - 1) == 20
    assert weight.usable(settings, 182 * SECOND) == 0
    # The blackout begins anew.
    weight.take(Report(10.0, 0.0, 0.5), 1.0, 200 * SECOND)
    assert weight.usable(settings, 209 * SECOND) == 0
    assert weight.usable(settings, 210 * SECOND) == 20


def test_replicas_without_a_weight_share_as_the_mean_and_extremes_are_cut():
    assert shares([1.0]) is None
    assert shares([0.0, 0.0]) is None
    assert shares([1.0, 3.0, 0.0]) == [MOST // 3, MOST, round(MOST * 2 / 3)]
    many = [1.0] * 30 + [1000.0]
    cut = shares(many)
    mean = sum(many) / 31
    assert cut[-1] == MOST
    assert cut[0] == round(MOST / (10 * mean))
    assert shares([1e-9, 1.0])[0] == round(round(MOST / 2) * 0.01)


def test_static_strides_pick_in_proportion_to_the_weights():
    picker = WeightedPicker(Orca(blackout_ns=0), 1, Random(1))
    replicas = [Replica(n, Report(rps, 0.0, 0.5)) for n, rps in enumerate((100, 200, 400))]
    picker.changed(replicas, 0)
    first = Counter(picker.pick(0, 0).number for _ in range(300))
    assert set(first.values()) == {100}
    picker.update(SECOND)
    chosen = Counter(picker.pick(0, 0).number for _ in range(7000))
    assert [chosen[n] for n in range(3)] == pytest.approx([1000, 2000, 4000], abs=3)


def test_a_client_reads_the_reports_of_replicas_that_it_has_asked():
    picker = WeightedPicker(Orca(blackout_ns=0), 2, Random(1))
    replicas = [Replica(n, Report(100 * (n + 1), 0.0, 0.5), clients=2) for n in range(2)]
    picker.changed(replicas, 0)
    for _ in range(4):
        picker.pick(0, 0)
    picker.update(SECOND)
    assert Counter(picker.pick(0, 0).number for _ in range(300)) == {0: 100, 1: 200}
    assert Counter(picker.pick(1, 0).number for _ in range(300)) == {0: 150, 1: 150}


def test_a_replica_that_was_gone_is_weighed_anew():
    picker = WeightedPicker(Orca(blackout_ns=0), 1, Random(1))
    replicas = [Replica(n, Report(100 * (n + 1), 0.0, 0.5)) for n in range(2)]
    picker.changed(replicas, 0)
    for _ in range(4):
        picker.pick(0, 0)
    picker.update(SECOND)
    picker.changed([], SECOND)
    picker.changed(replicas, SECOND)
    assert Counter(picker.pick(0, 0).number for _ in range(300)) == {0: 150, 1: 150}
