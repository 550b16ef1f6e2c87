"""The limit on batch size while single requests make their batches fail."""

from __future__ import annotations

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome
from batcher.core.decay import DecayingSum
from batcher.core.events import BatchProgress, FailureCause
from batcher.core.faults.batch_cap import FaultAwareCap
from batcher.simulation.engine.driver import succeed


def test_batches_are_small_unless_the_model_would_not_keep_up():
    curve = [0.0, *((5 + rows) * MILLISECOND for rows in range(1, 33))]

    def most_rows(rate, *, slots=1, waiting=0, later_ns=0, faults=10.0):
        cap = FaultAwareCap()
        for k in range(1, 5 * rate + 1):
            cap.arrived(1, k * SECOND // rate)
        cap.rows, cap.faults = 2000.0, faults
        return cap.most_rows(curve, slots, waiting, 5 * SECOND + later_ns)

    # One request in 200 fails, so of batches of 4 rows one in fifty does; they serve 428 rows a second.
    assert most_rows(300) == 4
    # With 12 rows it would be busy for 0.71 of the time.
    assert most_rows(500) == 13
    assert most_rows(500, slots=2) == 4
    assert most_rows(500, later_ns=SECOND) == 4
    assert most_rows(300, waiting=200) == most_rows(500)
    assert most_rows(2000) == 32


def test_a_model_keeps_up_with_a_higher_rate_at_once(stage, arrivals):
    """Failing requests keep batches small, and after a pause the arrival rate is unknown."""
    stage.model(target=100)
    stage.up()
    stage.outcome = lambda dispatch, timings: (
        BatchProgress(dispatch.batch_id, (), error=FailureCause.UNKNOWN)
        if any(part.id % 50 == 17 for part in dispatch.parts)
        else succeed(dispatch, timings)
    )
    (ends,) = stage.play(arrivals(350, 20, 1) + arrivals(430, 2, 2, since=25))
    later = [end for k, end in enumerate(ends) if end.at_ns >= 25 * SECOND and k % 50 != 17]
    in_time = [e.outcome is Outcome.OK and e.took_ns <= 100 * MILLISECOND + 1000 for e in later]
    assert sum(in_time) > 0.8 * len(later)


def test_while_requests_fail_bursts_run_in_small_batches(stage):
    sizes = []

    def outcome(dispatch, timings):
        if dispatch.attempt == 1:
            sizes.append(len(dispatch.parts))
        if any(part.id % 40 == 17 for part in dispatch.parts):
            return BatchProgress(dispatch.batch_id, (), error=FailureCause.UNKNOWN)
        return succeed(dispatch, timings)

    stage.model(target=200)
    stage.up()
    stage.outcome = outcome
    (ends,) = stage.play([(k // 8 * SECOND // 5, {}) for k in range(800)])
    assert sizes[:2] == [8, 8]
    assert max(sizes[-50:]) <= 3
    assert all((e.outcome is Outcome.OK) == (k % 40 != 17) for k, e in enumerate(ends))


def test_a_decaying_sum_forgets():
    total = DecayingSum(1e9)
    assert total.at(5 * SECOND) == 0.0
    total.add(8.0, SECOND)
    total.add(1.0, SECOND)
    assert total.at(SECOND) == 9.0
    assert 3.3 < total.at(2 * SECOND) < 3.32
    twin = DecayingSum(1e9)
    twin.restore(total.capture())
    assert twin.at(2 * SECOND) == total.at(2 * SECOND)


def test_a_restored_cap_continues_the_same():
    curve = [0.0, *((5 + rows) * MILLISECOND for rows in range(1, 33))]
    cap, twin = FaultAwareCap(), FaultAwareCap()
    for k in range(1, 501):
        cap.arrived(1, k * SECOND // 500)
    cap.rows, cap.faults = 2000.0, 10.0
    twin.restore(cap.capture())
    for each in (cap, twin):
        each.count(7)
    assert twin.capture() == cap.capture()
    found = [each.most_rows(curve, 1, 0, SECOND) for each in (cap, twin)]
    assert found[0] == found[1] > cap.safe_rows()
