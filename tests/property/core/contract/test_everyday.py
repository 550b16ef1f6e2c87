"""What a new user tries first, in virtual time: what is answered and what is not."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.config import BatchingConfig
from batcher.core.commands import Outcome, Reason
from batcher.core.events import RequestArrived
from batcher.core.settings import FixedWindow, ModelSettings, PaddedAxis, QueueLimits
from batcher.simulation.engine.stalls import Stalls

TARGET_NS = 50 * MILLISECOND
OK = (Outcome.OK, Reason.NONE)
BUCKETS = (16, 32, 64, 256)


@pytest.fixture
def model():
    """A model with a target of 50 ms and the defaults of a configuration, with what is given replaced."""

    def make(**changed):
        batching = {"policy": "adaptive", "max_batch_size": 32, "target_p99": "50ms"}
        policy = BatchingConfig.model_validate(batching).policy_settings()
        return replace(ModelSettings(32, policy, target_ns=TARGET_NS), **changed)

    return make


def request(number, at_ns, *, rows=1, shapes=(), deadline_ns=None):
    ends_ns = None if deadline_ns is None else at_ns + deadline_ns
    return RequestArrived(number, "m", rows, 0, shapes, "", at_ns, deadline_ns=ends_ns)


@pytest.mark.parametrize("deadline_ns", [None, 2 * SECOND])
@pytest.mark.parametrize(("row_ms", "longest_ms"), [(0.5, 230), (1, 420)])
def test_300_requests_at_once_are_all_answered(
    play, device_of, model, deadline_ns, row_ms, longest_ms
):
    requests = [request(number, 0, deadline_ns=deadline_ns) for number in range(300)]
    played = play(model(), requests, device_of(5, row_ms))
    assert set(played.outcomes()) == {OK}
    assert max(played.waited_ns().values()) <= longest_ms * MILLISECOND


@pytest.mark.slow
def test_50_callers_of_a_padded_model_are_answered_about_as_soon_as_with_a_window(
    play, device_of, model
):
    padded = model(padding=(PaddedAxis(0, 1, BUCKETS),))
    draw = random.Random(1)
    lengths = [min(256, max(2, round(draw.lognormvariate(3.2, 0.8)))) for _ in range(5000)]

    def longest_ns(settings):
        numbers = count(50)

        def again(ended, now_ns):
            number = next(numbers)
            at_ns = now_ns + (ended.retry_ns or 0)
            return request(number, at_ns, shapes=((lengths[number],),)) if number < 5000 else None

        first = [request(number, 0, shapes=((lengths[number],),)) for number in range(50)]
        played = play(settings, first, device_of(4, 0, 4), again=again)
        assert set(played.outcomes()) == {OK}
        return max(played.waited_ns().values())

    fixed = replace(padded, policy=FixedWindow(2 * MILLISECOND))
    assert longest_ns(padded) <= 2 * longest_ns(fixed)


@pytest.mark.parametrize("deadline_ns", [None, 250 * MILLISECOND, 2 * SECOND])
@pytest.mark.parametrize("row_ms", [0.5, 1])
def test_512_rows_end_alike_each_time(play, device_of, model, row_ms, deadline_ns):
    requests = [
        request(number, 2 * number * SECOND, rows=512, deadline_ns=deadline_ns)
        for number in range(6)
    ]
    device = device_of(5, row_ms)
    played = play(model(), requests, device)
    assert len(played.outcomes()) == 1
    takes_ns = 16 * device.takes_ns(32)
    if deadline_ns is None or takes_ns <= deadline_ns:
        assert set(played.outcomes()) == {OK}


@pytest.mark.parametrize("groups", [1, 3, 10])
@pytest.mark.parametrize("rows", [512, 1024])
def test_a_large_request_that_fits_its_limit_is_answered_behind_others(
    play, device_of, model, rows, groups
):
    """Its own batches count once, and as large ones, whatever waits before it."""
    ahead = [
        RequestArrived(number, "m", 1, 0, (), str(number % groups), MILLISECOND)
        for number in range(10)
    ]
    requests = [request(100, 0), *ahead, request(101, 2 * MILLISECOND, rows=rows)]
    played = play(model(), requests, device_of(5, 0.5))
    assert set(played.outcomes()) == {OK}


@pytest.mark.slow
def test_lengths_without_padding_are_not_refused_beside_an_idle_device(play, device_of, model):
    """Each length is a batch group of its own, so most batches hold one row."""
    draw, device = random.Random(1), device_of(5, 1)
    for load in (0.3, 0.7, 1.5):
        now_ns, requests = 0.0, []
        for number in range(2000):
            now_ns += draw.expovariate(load / device.takes_ns(1))
            shapes = ((draw.randint(2, 256),),)
            requests.append(request(number, round(now_ns), shapes=shapes))
        played = play(model(), requests, device)
        assert played.beside_idle == []
        if load < 1:
            assert set(played.outcomes()) == {OK}


@pytest.mark.parametrize("load", [1.5, 5])
def test_where_nothing_can_be_in_time_overload_is_answered_at_the_rate_of_the_device(
    play, device_of, model, load
):
    """Late requests have the whole device then, in full batches, though the longest wait up to the limit."""
    draw, device = random.Random(1), device_of(60, 0.5)
    now_ns, requests = 0.0, []
    while now_ns < 4 * SECOND:
        now_ns += draw.expovariate(load * 32 / device.takes_ns(32))
        requests.append(request(len(requests), round(now_ns)))
    played = play(model(), requests, device, validate=False)
    answered = played.outcomes()[OK]
    assert answered >= 0.95 * now_ns * 32 / device.takes_ns(32)


def test_a_deadline_shorter_than_any_batch_ends_as_expired_and_is_not_to_be_retried(
    play, device_of, model
):
    requests = [request(n, n * SECOND, deadline_ns=3 * MILLISECOND) for n in range(3)]
    played = play(model(), requests, device_of(5, 1))
    assert set(played.outcomes()) == {(Outcome.EXPIRED, Reason.DEADLINE_TOO_SHORT)}
    assert {ended.retry_ns for ended in played.ended.values()} == {None}


@pytest.mark.parametrize(("rows", "deadline_ms"), [(1, 5), (64, 25), (512, 200)])
@pytest.mark.parametrize("apart_ms", [1, 1000])
def test_no_load_is_to_blame_for_a_deadline_that_is_too_short_for_its_rows(
    play, device_of, model, rows, deadline_ms, apart_ms
):
    """It ends alike beside an idle device and behind others, whatever the request's size."""
    requests = [
        request(n, n * apart_ms * MILLISECOND, rows=rows, deadline_ns=deadline_ms * MILLISECOND)
        for n in range(1, 6)
    ]
    played = play(model(), [request(0, 0), *requests], device_of(5, 0.5))
    ended = [played.ended[each.id] for each in requests]
    assert {(each.outcome, each.reason) for each in ended} == {
        (Outcome.EXPIRED, Reason.DEADLINE_TOO_SHORT)
    }
    assert {each.retry_ns for each in ended} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["adaptive", "fixed"])
def test_a_busy_machine_has_nothing_refused(play, device_of, model, policy):
    """Half a device of load; the loop, handing over and reports stall 20 ms some three times a second."""
    draw, device = random.Random(3), device_of(5, 1)
    now_ns, at_ns = 0.0, []
    for _ in range(6000):
        now_ns += draw.expovariate(0.5 * 32 / device.takes_ns(32))
        at_ns.append(round(now_ns))
    spells = {
        part: [
            (start_ns, start_ns + 20 * MILLISECOND)
            for start_ns in (
                third * SECOND // 3 + draw.randrange(SECOND // 3 - 20 * MILLISECOND)
                for third in range(int(3 * now_ns / SECOND))
            )
        ]
        for part in ("loop", "dispatch", "reply")
    }
    settings = model(queue=QueueLimits(max_requests=10_000))
    if policy == "fixed":
        settings = replace(settings, policy=FixedWindow(2 * MILLISECOND))
    requests = [request(number, moment_ns) for number, moment_ns in enumerate(at_ns)]
    played = play(
        settings, requests, device, stalls=Stalls(**spells), gap_ns=300_000, validate=False
    )
    assert set(played.outcomes()) == {OK}
