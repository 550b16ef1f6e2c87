"""The bars of an attack, judged by its rounds."""

from types import SimpleNamespace

import attack
import numpy as np
import pytest
from attack import FAILED_MS, judged, seen, unfair
from clients import Record

from batcher.clock import MILLISECOND, SECOND


@pytest.fixture
def a_round():
    """A function that makes a round that holds every bar, with the given figures replaced."""

    def make(**changed):
        quiet = {
            "rss_mib": 150.0,
            "p99_ms": 20.0,
            "requests": 100,
            "failed": {},
            "sent_late_ms": 1.0,
            "calm_share": 0.9,
            "probes_failed": {},
        }
        phases = {phase: quiet | changed.pop(phase, {}) for phase in attack.PHASES}
        return phases | {"alive": True, "stalls": 0.0} | changed

    return make


def missed(rounds):
    """The bars that do not hold, without the attack's name."""
    checks = judged("name", rounds)
    assert all(bar.startswith("name: ") for bar in checks)
    return [bar.removeprefix("name: ") for bar, held in checks.items() if held is not True]


def test_all_bars_hold(a_round):
    assert missed([a_round()]) == []


@pytest.mark.parametrize(
    ("phase", "figures", "bar"),
    [
        ("during", {"rss_mib": 600.0}, "memory within"),
        ("after", {"rss_mib": 300.0}, "five seconds later within"),
        ("during", {"p99_ms": 41.0}, "p99 of the others"),
        ("after", {"p99_ms": 41.0}, "five seconds later, too"),
        ("during", {"probes_failed": {"TimeoutError": 1}}, "every probe"),
    ],
)
def test_each_figure_has_its_bar(a_round, phase, figures, bar):
    (only,) = missed([a_round(**{phase: figures})])
    assert only.startswith(bar)


def test_a_server_that_died(a_round):
    assert missed([a_round(), a_round(alive=False)]) == ["the server lives"]


def test_the_median_of_the_rounds_counts(a_round):
    bad = a_round(during={"p99_ms": 900.0})
    assert missed([a_round(), bad, a_round()]) == []
    assert missed([bad, bad, a_round()])


def test_rounds_that_were_sent_late_do_not_count_for_times(a_round):
    late = a_round(during={"p99_ms": 900.0, "sent_late_ms": 30.0})
    assert missed([late, late, a_round()]) == []
    assert judged("name", [late])["name: five seconds later, too"].startswith("not judged")


def test_a_round_whose_calm_was_none_is_not_judged(a_round):
    busy = a_round(before={"failed": {"RESOURCE_EXHAUSTED": 2}})
    assert "failed without an attack" in unfair(busy)
    assert not unfair(a_round(before={"failed": {"RESOURCE_EXHAUSTED": 1}}))


def test_a_stall_in_most_rounds(a_round):
    stalled = a_round(stalls=2.0)
    assert missed([stalled, a_round(), a_round()]) == []
    assert missed([stalled, stalled, a_round()]) == ["no stall of 50 ms"]


def test_figures_between_two_moments():
    record = Record(began_ns=1000 * SECOND)
    due_ns = [place * 100 * MILLISECOND for place in range(100)]
    record.sent_late_ns = [MILLISECOND] * 100
    record.latency_ns = {place: 10 * MILLISECOND for place in range(100) if place not in {50, 51}}
    record.sent_late_ns[53], record.latency_ns[53] = 6 * MILLISECOND, 900 * MILLISECOND
    record.failed = {50: "UNAVAILABLE"}
    watch = SimpleNamespace(
        memory=[((10000 + tenth) * SECOND // 10, 100.0 + tenth) for tenth in range(100)],
        descriptors=[((1000 + second) * SECOND, 20 + second) for second in range(10)],
        probes=[
            (1005 * SECOND, 7.0, ""),
            (1005 * SECOND, 99.0, "TimeoutError"),
            (1009 * SECOND, 80.0, ""),
        ],
    )
    slow = SimpleNamespace(calm=lambda _began, at, _margin: np.ones(len(at), np.bool_))
    calm = np.arange(100) != 52
    phase = seen(record, due_ns, calm, slow, watch, (1005 * SECOND, 1006 * SECOND))
    assert phase.requests == 10
    assert phase.failed == {"UNAVAILABLE": 1, "no answer": 1}
    assert phase.p50_ms == 10
    assert 10 < phase.p99_ms <= FAILED_MS
    assert (phase.rss_floor_mib, phase.rss_mib, phase.descriptors) == (150, 159, 25)
    assert phase.probe_ms == 7
    assert phase.probes_failed == {"TimeoutError": 1}
    assert phase.sent_late_ms == 1
    assert phase.calm_share == 0.8
