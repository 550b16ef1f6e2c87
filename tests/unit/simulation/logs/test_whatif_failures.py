"""What-ifs of logs in which requests or batches failed."""

import pytest

from batcher.clock import SECOND
from batcher.core.commands import Dispatch
from batcher.core.events import (
    BatchProgress,
    Failure,
    FailureCause,
)
from batcher.core.times import NEVER_NS
from batcher.simulation import Driver
from batcher.simulation.engine.driver import succeed
from batcher.simulation.logs.stretch import Samples, stretches
from batcher.simulation.logs.whatif import REPLAYED, Variant


@pytest.fixture
def failing(arrivals, device, record):
    """`failing(rate, seconds, fails)`: a log of an executor that fails batches as a whole."""

    def call(rate, seconds, fails):
        def outcome(dispatch, timings):
            if fails(dispatch, timings):
                return BatchProgress(
                    dispatch.batch_id, (), timings=timings, error=FailureCause.UNKNOWN
                )
            return succeed(dispatch, timings)

        return record(
            arrivals(rate, seconds),
            driver=lambda scheduler: Driver(
                scheduler, device(), observe=lambda now, commands: None, outcome=outcome
            ),
        )

    return call


@pytest.fixture
def failing_for(failing):
    """`failing_for(rate, seconds, ids)`: every batch with one of these requests failed."""

    def call(rate, seconds, ids):
        return failing(
            rate, seconds, lambda dispatch, _: ids.intersection(p.id for p in dispatch.parts)
        )

    return call


@pytest.mark.slow
def test_requests_and_batches_that_failed_fail_again(record, arrivals, cost, summaries):
    class Failing(Driver):
        """Fails some requests because of their input, and for a while batches for the device."""

        def start(self, dispatch, now_ns):
            ids = [part.id for part in dispatch.parts]
            poison = [i for i in ids if i % 50 == 0]
            broken = SECOND < now_ns < 3 * SECOND // 2
            cause = FailureCause.DEVICE if broken else FailureCause.INPUT
            bad = ids if broken else poison
            failed = tuple(Failure(i, cause) for i in bad)
            done = tuple(i for i in ids if i not in bad)
            self.post(now_ns + cost(len(ids)), BatchProgress(dispatch.batch_id, done, failed))

    def driver(scheduler):
        return Failing(scheduler, cost, observe=lambda now, commands: None)

    recorded, replayed = summaries(record(arrivals(500, 3), driver=driver))
    assert recorded.dropped_by["failed:input"] == replayed.dropped_by["failed:input"]
    device = "failed:device"
    assert replayed.dropped_by[device] == pytest.approx(recorded.dropped_by[device], rel=0.2)


@pytest.mark.slow
def test_a_failing_request_fails_its_batches_and_is_found_by_bisection_again(
    failing_for, summaries
):
    bad = set(range(40, 3000, 90))
    recorded, replayed = summaries(failing_for(600, 5, bad))
    assert recorded.dropped_by == replayed.dropped_by == {"failed:unknown": len(bad)}
    assert replayed.batches == pytest.approx(recorded.batches, rel=0.01)
    assert replayed.counts.p99_ms == pytest.approx(recorded.counts.p99_ms, rel=0.02)
    # Without failing requests none has to wait for a bisection.
    without, _ = summaries(failing_for(600, 5, set()))
    assert without.counts.p99_ms < 0.7 * recorded.counts.p99_ms


def test_failing_requests_are_known_even_if_they_never_ran_alone(failing_for):
    bad = set(range(10, 500, 30))
    log = failing_for(600, 1, bad)
    alone = {
        command.parts[0].id
        for segment in log.segments
        for step in segment.steps()
        for command in step.commands
        if type(command) is Dispatch and len(command.parts) == 1 and command.attempt > 1
    }
    assert 0 < len(bad & alone) < len(bad)
    (stretch,) = stretches(log.segments, NEVER_NS, Samples(32))
    assert stretch.failing_requests == dict.fromkeys(bad, FailureCause.UNKNOWN)
    assert stretch.bad_inputs == set()


@pytest.mark.slow
def test_an_outage_happens_again_and_no_request_is_taken_for_its_cause(failing, summaries):
    """The executor fails every batch for a second."""
    begins_ns, ends_ns = SECOND, 2 * SECOND
    log = failing(500, 4, lambda _, timings: begins_ns <= timings.started_ns < ends_ns)
    recorded, replayed, tried = summaries(log, "fixed:3ms")
    assert recorded.dropped_by["failed:unknown"] > 100
    assert replayed.dropped_by == recorded.dropped_by
    assert recorded.failed_batches > 50
    assert replayed.failed_batches == pytest.approx(recorded.failed_batches, rel=0.1)
    assert replayed.counts.p99_ms == pytest.approx(recorded.counts.p99_ms, rel=0.05)
    assert tried.failed_batches > 50
    (stretch,) = stretches(log.segments, NEVER_NS, Samples(32))
    assert stretch.failing_requests == {}


@pytest.mark.slow
def test_batches_that_failed_once_fail_as_often_again(failing, summaries):
    recorded, replayed = summaries(failing(500, 4, lambda dispatch, _: dispatch.batch_id % 20 == 0))
    assert recorded.failed_batches == recorded.batches // 20
    assert replayed.failed_batches == pytest.approx(recorded.failed_batches, rel=0.6)
    assert replayed.counts.p99_ms == pytest.approx(recorded.counts.p99_ms, rel=0.1)


def test_where_every_batch_failed_every_batch_fails_again(failing, summaries):
    recorded, replayed = summaries(failing(100, 1, lambda *_: True))
    assert recorded.counts.dropped == replayed.counts.dropped == 100


def test_failed_batches_are_counted_for_the_models_that_are_asked_for(failing, what_ifs):
    log = failing(100, 1, lambda *_: True)
    for models, some in ((None, True), (frozenset({"m/1"}), True), (frozenset({"n/1"}), False)):
        (what_if,) = what_ifs(log, models)
        assert bool(what_if.recorded().failed_batches) is some
        assert bool(what_if.play(Variant(REPLAYED), 0).failed_batches) is some
