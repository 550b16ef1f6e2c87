import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.errors import InputError
from batcher.simulation.traffic.arrivals import (
    Closed,
    Gamma,
    Mmpp,
    Poisson,
    Recorded,
    arrival_times,
    is_process,
    parse_process,
)


def times(process, count=20_000, seed=1, **rest):
    return arrival_times(process, np.random.default_rng(seed), requests=count, **rest)


@pytest.mark.parametrize(
    ("text", "process"),
    [
        ("poisson:800", Poisson(800)),
        ("poisson", Poisson(0)),
        ("gamma:800", Gamma(800, 3)),
        ("gamma::2.5", Gamma(0, 2.5)),
        ("mmpp:100:4:0.25:2s", Mmpp(100, 4, 0.25, 2)),
        ("mmpp:100", Mmpp(100, 5, 0.2, 1)),
        ("closed:16:5ms", Closed(16, 5 * MILLISECOND)),
        ("closed:1", Closed(1, 0)),
    ],
)
def test_spellings(text, process):
    assert is_process(text)
    assert parse_process(text) == process


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poison:8", "poisson:RATE"),
        ("poisson:-1", "RATE must be a number above 0"),
        ("poisson:inf", "RATE"),
        ("poisson:8:9", "at most poisson:RATE"),
        ("gamma:8:0", "CV must be a number above 0"),
        ("mmpp:8:0.5", "RATIO must be a number at least 1"),
        ("mmpp:8:5:1", "SHARE must be a number above 0 and below 1"),
        ("mmpp:8:5:0.2:0", "CYCLE must be longer than 0"),
        ("mmpp:8:5:0.2:7", "a number with a unit"),
        ("closed:0", "CALLERS must be a whole number at least 1"),
        ("closed:2.5", "whole"),
    ],
)
def test_an_error_says_what_is_allowed(text, message):
    with pytest.raises(InputError) as error:
        parse_process(text)
    assert text in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("process", "cv"), [(Poisson(500), 1.0), (Gamma(500, 3), 3.0), (Mmpp(500, 5, 0.2, 0.1), 1.4)]
)
def test_rate_and_burstiness_are_as_asked(process, cv):
    at = times(process) / SECOND
    gaps = np.diff(at)
    assert np.all(gaps >= 0)
    assert 1 / gaps.mean() == pytest.approx(500, rel=0.08)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.12)


def test_the_burst_of_an_mmpp_has_its_share_and_its_ratio():
    process = Mmpp(1000, ratio=9, share=0.1, cycle_s=10)
    counts = np.bincount((times(process, 200_000) // SECOND).astype(int))
    calm = 1000 / (0.9 + 0.1 * 9)
    assert np.median(counts) == pytest.approx(calm, rel=0.1)
    assert counts.max() == pytest.approx(9 * calm, rel=0.1)


def test_equal_seeds_give_equal_arrivals():
    assert np.array_equal(times(Mmpp(50), seed=3), times(Mmpp(50), seed=3))
    assert not np.array_equal(times(Poisson(50), seed=3), times(Poisson(50), seed=4))


def test_a_duration_ends_arrivals():
    at = times(Poisson(100), duration_ns=SECOND)
    assert 50 < len(at) < 150
    assert at[-1] <= SECOND


def test_a_trace_is_stretched_to_a_rate():
    trace = Recorded.of(np.array([10.0, 11.0, 14.0]))
    assert trace.rate == pytest.approx(2 / 4)
    assert times(trace.at_rate(1.0)).tolist() == [0, SECOND // 2, 2 * SECOND]
    assert times(trace, 2).tolist() == [0, SECOND]


def test_a_trace_without_length_has_no_rate():
    with pytest.raises(InputError, match="all requests of the trace arrive at once"):
        Recorded.of(np.array([1.0, 1.0])).at_rate(5)
