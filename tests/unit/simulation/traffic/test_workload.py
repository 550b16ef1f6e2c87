import numpy as np
import pytest

from batcher.core.events import RequestArrived
from batcher.errors import InputError
from batcher.simulation.traffic.workload import (
    Kind,
    Mix,
    Traffic,
    Workload,
    parse_mix,
    parse_whole_mix,
)


def test_mixes():
    assert parse_mix("a=1,b=3") == Mix(("a", "b"), (0.25, 0.75))
    assert parse_mix("a") == Mix(("a",), (1.0,))
    assert parse_whole_mix("1=1,4=1", least=1) == Mix((1, 4), (0.5, 0.5))


@pytest.mark.parametrize("text", ["", "a=0", "a=x", "a=1,a=2", "=1", "a=inf"])
def test_wrong_mixes(text):
    with pytest.raises(InputError, match="values and weights above 0"):
        parse_mix(text)


@pytest.mark.parametrize(
    ("text", "message"), [("0=1", "from 1 on"), ("x", "whole"), ("1,01", "once")]
)
def test_wrong_whole_mixes(text, message):
    with pytest.raises(InputError, match=message):
        parse_whole_mix(text, least=1)


def test_shares_are_kept_and_mixes_are_independent():
    traffic = Traffic(
        parse_mix("a=1,b=3"),
        parse_whole_mix("1=1,4=1", least=1),
        parse_mix("x=1,y=4"),
        parse_whole_mix("1,2", least=0),
    )
    assert traffic.mean_rows == 2.5
    rows, kinds = traffic.draws(40_000, np.random.default_rng(1))
    assert set(rows.tolist()) == {1, 4}
    assert rows.mean() == pytest.approx(2.5, rel=0.02)
    labels = traffic.kinds()
    assert len(labels) == 8
    share = np.bincount(kinds, minlength=8) / 40_000
    assert share[labels.index(Kind("b", "y", 2))] == pytest.approx(0.75 * 0.8 * 0.5, rel=0.05)
    assert share[labels.index(Kind("a", "x", 1))] == pytest.approx(0.25 * 0.2 * 0.5, rel=0.1)


def test_events_are_the_arrivals_in_order():
    kinds = (Kind("a", "t", 2), Kind("b", "", 0))
    load = Workload(np.array([5, 7]), np.array([1, 3]), np.array([1, 0]), kinds)
    reports = []
    events = list(load.events(deadline_ns=100, progress=reports.append))
    assert events == [
        (5, RequestArrived(0, "b", 1, 0, (), "", 5, deadline_ns=105)),
        (7, RequestArrived(1, "a", 3, 0, (), "", 7, deadline_ns=107, priority=2, tenant="t")),
    ]
    assert reports == [0, 2]


def test_more_than_a_chunk_of_events_keeps_its_numbers():
    load = Workload.of(np.arange(10_000), Traffic(parse_mix("m")), np.random.default_rng(1))
    assert [event.id for _, event in load.events()] == list(range(10_000))
