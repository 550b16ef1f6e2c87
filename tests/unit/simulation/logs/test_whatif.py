"""What a log says of other settings, against what those settings really do."""

from dataclasses import replace

import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Dispatch
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    Failure,
    FailureCause,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, QueueLimits
from batcher.core.times import NEVER_NS
from batcher.errors import InputError
from batcher.journal import read_log
from batcher.simulation import Driver
from batcher.simulation.compare.experiment import Cell
from batcher.simulation.compare.report import summarize
from batcher.simulation.engine.driver import succeed
from batcher.simulation.logs.replay import replay
from batcher.simulation.logs.story import Lessons, stories
from batcher.simulation.logs.variants import merged, variants
from batcher.simulation.logs.whatif import MOST_KINDS, REPLAYED, Variant, WhatIf
from batcher.simulation.policies.named import parse_policy
from batcher.testing.prefetch import PrefetchingShell
from batcher.testing.recording import RecordedScheduler

ADAPTIVE = ModelSettings(32, Adaptive(), target_ns=50 * MILLISECOND)
SECTIONS = {"m/1": {"batching": {"target_p99": "50ms"}, "queue": {}}}


def cost(rows):
    return 5 * MILLISECOND + rows * MILLISECOND // 2


def device(noise=0.0, seed=0):
    """A service time: the cost, times a factor."""
    draw = np.random.default_rng(seed)

    def took(dispatch):
        rows = sum(part.stop - part.start for part in dispatch.parts)
        return round(cost(rows) * max(0.5, draw.normal(1.0, noise)))

    return took


def arrivals(rate, seconds, settings=ADAPTIVE, seed=0, prefetches=False, **fields):
    draw = np.random.default_rng(seed)
    at = np.cumsum(draw.exponential(SECOND / rate, int(rate * seconds))).astype(int).tolist()
    yield 0, DeviceConfigured("d", 1)
    yield 0, ModelConfigured("m/1", settings)
    profile = tuple((rows, cost(rows)) for rows in (1, 8, 32))
    yield 0, InstanceUp("m/1#0", 1, "m/1", "d", 1, profile, prefetches=prefetches)
    for number, at_ns in enumerate(at, 1):
        yield at_ns, RequestArrived(number, "m/1", 1, 16, (), "", at_ns, **fields)


@pytest.fixture
def record(tmp_path):
    """A function that plays a story and returns the log; or what-ifs of it."""
    made = iter(range(100))

    def record(story, took=None, segment_ns=SECOND, driver=None):
        path = tmp_path / f"log{next(made)}"
        path.mkdir()
        with RecordedScheduler(path, segment_ns=segment_ns, models=SECTIONS) as scheduler:
            if driver is None:
                played = Driver(scheduler, took or device(), observe=lambda now, commands: None)
            else:
                played = driver(scheduler)
            played.run(story)
        return read_log(path)

    return record


def plots(log, models=None, until_ns=NEVER_NS):
    lessons = Lessons(64)
    told = list(stories(log.segments, until_ns, lessons))
    learned = lessons.learned(replay(log.segments, until_ns=until_ns).late_ns)
    return [WhatIf(story, learned, models) for story in told]


def summary(plot, run):
    return summarize(Cell(None, (run,)), plot.capacity())


def of(log, *policies, assignments=(), seed=0):
    """Summaries: recorded, replayed, and one for each policy."""
    (plot,) = plots(log)
    asked = variants(SECTIONS, SECTIONS, assignments, [parse_policy(p) for p in policies])
    runs = [plot.recorded(), *(plot.play(v, seed) for v in (Variant(REPLAYED), *asked))]
    return [summary(plot, run) for run in runs]


@pytest.mark.slow
def test_without_noise_the_replayed_run_is_as_the_recorded_one(record):
    recorded, replayed = of(record(arrivals(900, 5)))
    assert recorded.counts.requests == 4500
    assert replayed.counts.on_time == recorded.counts.on_time
    # Sizes that were seen a few times share a median: next to nothing.
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        wanted = getattr(recorded.counts, name)
        assert getattr(replayed.counts, name) == pytest.approx(wanted, rel=0.01)
    assert replayed.batches == pytest.approx(recorded.batches, rel=0.01)
    assert replayed.busy_fraction == pytest.approx(recorded.busy_fraction, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1400, 1800])
def test_what_was_prefetched_began_when_the_batch_before_it_was_over(record, rate):
    played = []

    def driver(scheduler):
        played.append(PrefetchingShell(scheduler, cost, MILLISECOND, lambda now, commands: None))
        return played[0]

    recorded, replayed = of(record(arrivals(rate, 5, prefetches=True), driver=driver))
    assert played[0].prefetched > 20
    # A little less than one batch after the other: what gaps are left belong to their batches.
    assert recorded.busy_fraction <= 1.0
    assert replayed.busy_fraction == pytest.approx(recorded.busy_fraction, rel=0.03)
    assert replayed.counts.on_time == pytest.approx(recorded.counts.on_time, rel=0.03)
    assert replayed.counts.p99_ms == pytest.approx(recorded.counts.p99_ms, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "assignments", "really"),
    [
        ("configured", ["batching.target_p99=25ms"], {"target_ns": 25 * MILLISECOND}),
        ("configured", ["batching.max_batch_size=8"], {"max_batch_size": 8}),
        ("fixed:3ms", [], {"policy": FixedWindow(3 * MILLISECOND)}),
        ("greedy", [], {"policy": FixedWindow()}),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_what_if_is_what_the_settings_really_do(record, policy, assignments, really, noise):
    log = record(arrivals(800, 10), device(noise, seed=1))
    *_, guessed = of(log, policy, assignments=assignments)
    settings = ModelSettings(
        **{"max_batch_size": 32, "policy": Adaptive(), "target_ns": 50 * MILLISECOND} | really
    )
    real, _ = of(record(arrivals(800, 10, settings), device(noise, seed=2)))
    assert guessed.counts.p99_ms == pytest.approx(real.counts.p99_ms, rel=0.1)
    assert guessed.counts.p50_ms == pytest.approx(real.counts.p50_ms, rel=0.1)
    assert guessed.mean_batch == pytest.approx(real.mean_batch, rel=0.05)
    assert guessed.counts.on_time / 8000 == pytest.approx(real.counts.on_time / 8000, abs=0.02)


@pytest.mark.slow
def test_equal_seeds_give_equal_runs(record):
    log = record(arrivals(800, 3), device(0.2))
    one, two, other = (of(log, "greedy", seed=seed)[2] for seed in (1, 1, 2))
    assert one == two
    assert one != other


@pytest.mark.slow
def test_it_begins_where_a_segment_does(record):
    found = []
    for seed in range(3):
        log = record(arrivals(1200, 6, seed=seed), device(0.05, seed=seed))
        log.segments = log.segments[3:]
        found.append(of(log))
    for recorded, _ in found:
        assert 3000 < recorded.counts.requests < 3700
        assert recorded.rate == pytest.approx(1200, rel=0.1)
    # The p99 of one run of 3 s is off by up to 10 % by chance.
    real_ms, replayed_ms = (
        sum(run.counts.p99_ms for run in runs) for runs in zip(*found, strict=True)
    )
    assert replayed_ms == pytest.approx(real_ms, rel=0.05)


def changing(rate, seconds, *targets_ms):
    """Arrivals, and a second later each a target."""
    yield from sorted(
        [
            *arrivals(rate, seconds, replace(ADAPTIVE, target_ns=targets_ms[0] * MILLISECOND)),
            *(
                (n * SECOND, ModelConfigured("m/1", replace(ADAPTIVE, target_ns=t * MILLISECOND)))
                for n, t in enumerate(targets_ms[1:], 1)
            ),
        ],
        key=lambda each: each[0],
    )


def targets_in_force(log, *assignments):
    """Of a what-if's batches, in milliseconds: those that are different from the one before."""
    (plot,) = plots(log)
    (variant,) = variants(SECTIONS, SECTIONS, assignments, [parse_policy("configured")])
    found = []

    class Watched(Scheduler):
        def handle(self, events, now_ns):
            commands = super().handle(events, now_ns)
            if any(type(command) is Dispatch for command in commands):
                target = self.models["m/1"].settings.target_ns // MILLISECOND
                if found[-1:] != [target]:
                    found.append(target)
            return commands

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batcher.simulation.logs.whatif.Scheduler", Watched)
        plot.play(variant, 0)
    return found


def test_what_is_set_holds_all_the_time_whatever_the_log_changed(record):
    log = record(changing(200, 3, 50, 20, 40))
    assert targets_in_force(log) == [50, 20, 40]
    for wanted in (50, 20, 45):  # that of the start among them
        assert targets_in_force(log, f"batching.target_p99={wanted}ms") == [wanted]
    assert targets_in_force(log, "queue.max_requests=9") == [50, 20, 40]


def test_what_is_set_holds_from_the_middle_of_a_log_on(record):
    log = record(arrivals(200, 3))
    log.segments = log.segments[2:]
    assert not any(type(e) is ModelConfigured for s in log.segments[0].steps() for e in s.events)
    assert targets_in_force(log, "batching.target_p99=25ms") == [25]
    recorded, _, tried = of(log, "none")
    assert recorded.mean_batch > 1
    assert tried.mean_batch == 1


@pytest.mark.slow
def test_a_gap_makes_two_stretches(record):
    log = record(arrivals(800, 5))
    del log.segments[2]
    both = plots(log)
    assert len(both) == 2
    runs = [plot.recorded() for plot in both]
    assert sum(len(run.workload) for run in runs) == pytest.approx(3200, rel=0.1)
    pooled = summarize(Cell(None, tuple(runs)), 1000)
    assert pooled.rate == pytest.approx(800, rel=0.1)


def test_what_is_prefetched_behind_a_batch_from_before_the_log_begins_after_it(record):
    def driver(scheduler):
        return PrefetchingShell(scheduler, cost, MILLISECOND, lambda now, commands: None)

    log = record(arrivals(1800, 2, prefetches=True), driver=driver)
    for segment in log.segments[1:]:
        assert segment.state().batches
        lessons = Lessons(32)
        list(stories([segment], NEVER_NS, lessons))
        samples = lessons.batches._samples["m/1", None, None]
        assert max(sample.took_ns for sample in samples) <= cost(32) + MILLISECOND


def test_callers_who_leave_leave_again(record):
    def story():
        for at_ns, event in arrivals(500, 2):
            yield at_ns, event
            if type(event) is RequestArrived and event.id % 10 == 0:
                yield at_ns, RequestCancelled(event.id, CancelCause.CANCELLED)

    recorded, replayed = of(record(story()))
    assert recorded.dropped_by == replayed.dropped_by == {"cancelled:caller_cancelled": 100}


@pytest.mark.slow
def test_deadlines_and_refusals_are_part_of_it(record):
    settings = ModelSettings(
        32, FixedWindow(), QueueLimits(max_requests=20, timeout_ns=10 * MILLISECOND)
    )
    recorded, replayed = of(record(arrivals(3000, 2, settings)))
    assert {"rejected:queue_requests", "expired:queue_timeout"} <= set(recorded.dropped_by)
    assert replayed.dropped_by == pytest.approx(recorded.dropped_by, rel=0.05)


def test_own_due_times_count_before_the_target(record):
    story = arrivals(100, 1, due_ns=1)
    (plot,) = plots(record(story))
    assert summary(plot, plot.recorded()).counts.on_time == 0


class Failing(Driver):
    """Fails requests for a reason of theirs, and batches for one of the device's."""

    def start(self, dispatch, now_ns):
        ids = [part.id for part in dispatch.parts]
        poison = [i for i in ids if i % 50 == 0]
        slow = SECOND < now_ns < 3 * SECOND // 2
        cause = FailureCause.DEVICE if slow else FailureCause.INPUT
        bad = ids if slow else poison
        failed = tuple(Failure(i, cause) for i in bad)
        done = tuple(i for i in ids if i not in bad)
        self.post(now_ns + cost(len(ids)), BatchProgress(dispatch.batch_id, done, failed))


@pytest.mark.slow
def test_what_failed_fails_again(tmp_path):
    path = tmp_path / "log"
    path.mkdir()
    with RecordedScheduler(path, segment_ns=SECOND, models=SECTIONS) as scheduler:
        Failing(scheduler, cost, observe=lambda now, commands: None).run(arrivals(500, 3))
    recorded, replayed = of(read_log(path))
    assert recorded.dropped_by["failed:input"] == replayed.dropped_by["failed:input"]
    broke = "failed:device"
    assert replayed.dropped_by[broke] == pytest.approx(recorded.dropped_by[broke], rel=0.2)


def spoilt(rate, seconds, at_fault, path, segment_ns=SECOND):
    """A log of an executor that fails every batch with one of these requests."""

    def fails(dispatch, timings):
        return at_fault.intersection(part.id for part in dispatch.parts)

    return failing(rate, seconds, fails, path, segment_ns)


def failing(rate, seconds, fails, path, segment_ns=SECOND):
    """A log of an executor that fails batches as a whole."""

    def outcome(dispatch, timings):
        if fails(dispatch, timings):
            return BatchProgress(dispatch.batch_id, (), timings=timings, error=FailureCause.UNKNOWN)
        return succeed(dispatch, timings)

    path.mkdir()
    with RecordedScheduler(path, segment_ns=segment_ns, models=SECTIONS) as scheduler:
        driver = Driver(scheduler, device(), observe=lambda now, commands: None, outcome=outcome)
        driver.run(arrivals(rate, seconds))
    return read_log(path)


@pytest.mark.slow
def test_a_request_at_fault_spoils_its_batch_and_is_searched_for_again(tmp_path):
    at_fault = set(range(40, 3000, 90))
    log = spoilt(600, 5, at_fault, tmp_path / "log")
    recorded, replayed = of(log)
    assert recorded.dropped_by == replayed.dropped_by == {"failed:unknown": len(at_fault)}
    assert replayed.batches == pytest.approx(recorded.batches, rel=0.01)
    assert replayed.counts.p99_ms == pytest.approx(recorded.counts.p99_ms, rel=0.02)
    # Without them there is nobody to wait for.
    without, _ = of(spoilt(600, 5, set(), tmp_path / "well"))
    assert without.counts.p99_ms < 0.7 * recorded.counts.p99_ms


def test_who_is_at_fault_is_known_of_those_that_did_not_run_alone_as_well(tmp_path):
    at_fault = set(range(10, 500, 30))
    log = spoilt(600, 1, at_fault, tmp_path / "log")
    alone = {
        command.parts[0].id
        for segment in log.segments
        for step in segment.steps()
        for command in step.commands
        if type(command) is Dispatch and len(command.parts) == 1 and command.attempt > 1
    }
    assert 0 < len(at_fault & alone) < len(at_fault)
    (story,) = stories(log.segments, NEVER_NS, Lessons(32))
    assert story.spoilers == dict.fromkeys(at_fault, FailureCause.UNKNOWN)
    assert story.poison == set()


@pytest.mark.slow
def test_an_outage_is_one_again_and_no_request_is_blamed(tmp_path):
    """The executor fails whatever it gets for a second."""
    begins_ns, ends_ns = SECOND, 2 * SECOND
    log = failing(
        500, 4, lambda _, timings: begins_ns <= timings.started_ns < ends_ns, tmp_path / "log"
    )
    recorded, replayed, tried = of(log, "fixed:3ms")
    assert recorded.dropped_by["failed:unknown"] > 100
    assert replayed.dropped_by == recorded.dropped_by
    assert recorded.failed_batches > 50
    assert replayed.failed_batches == pytest.approx(recorded.failed_batches, rel=0.1)
    assert replayed.counts.p99_ms == pytest.approx(recorded.counts.p99_ms, rel=0.05)
    assert tried.failed_batches > 50
    (story,) = stories(log.segments, NEVER_NS, Lessons(32))
    assert story.spoilers == {}


@pytest.mark.slow
def test_a_batch_that_failed_once_fails_now_and_then(tmp_path):
    log = failing(500, 4, lambda dispatch, _: dispatch.batch_id % 20 == 0, tmp_path / "log")
    recorded, replayed = of(log)
    assert recorded.failed_batches == recorded.batches // 20
    assert replayed.failed_batches == pytest.approx(recorded.failed_batches, rel=0.6)
    assert replayed.counts.p99_ms == pytest.approx(recorded.counts.p99_ms, rel=0.1)


def test_where_all_failed_it_is_taken_to_fail_again(tmp_path):
    recorded, replayed = of(failing(100, 1, lambda *_: True, tmp_path / "log"))
    assert recorded.counts.dropped == replayed.counts.dropped == 100


def test_what_was_not_seen_to_end_is_not_reported(record):
    log = record(arrivals(500, 2))
    cut_ns = SECOND // 2
    (plot,) = plots(log, until_ns=cut_ns)
    run = plot.recorded()
    assert run.workload.at_ns.max() < cut_ns
    assert (run.settled_ns <= cut_ns).all()
    assert (run.outcome >= 0).all()
    replayed = plot.play(Variant(REPLAYED), 0)
    assert len(replayed.workload) == len(run.workload)


def test_one_model_of_two(record):
    def story():
        for at_ns, event in arrivals(500, 1):
            yield at_ns, event
            if type(event) is ModelConfigured:
                yield at_ns, ModelConfigured("n/1", event.settings)
            elif type(event) is InstanceUp:
                yield at_ns, InstanceUp("n/1#0", 1, "n/1", "d")
            elif type(event) is RequestArrived and event.id % 4 == 0:
                yield (
                    at_ns,
                    RequestArrived(event.id + 10_000, "n/1", 1, 0, (), "", at_ns, tenant="t"),
                )

    log = record(story())
    (both,) = plots(log)
    found = summary(both, both.recorded())
    assert {kind.model: counts.requests for kind, counts in found.groups.items()} == {
        "m/1": 500,
        "n/1": 125,
    }
    (one,) = plots(log, frozenset({"n/1"}))
    assert one.requests == 125
    assert summary(one, one.recorded()).counts.requests == 125
    (other,) = plots(log, frozenset({"m/1"}))
    for run in (WhatIf.recorded, lambda plot: plot.play(Variant(REPLAYED), 0)):
        all_, mine, its = (summary(plot, run(plot)) for plot in (both, one, other))
        assert 0 < mine.batches < its.batches
        assert mine.batches + its.batches == all_.batches
        assert mine.mean_batch * mine.batches == pytest.approx(125)


def test_failed_batches_are_those_of_the_models_that_are_asked_for(tmp_path):
    log = failing(100, 1, lambda *_: True, tmp_path / "log")
    for models, some in ((None, True), (frozenset({"m/1"}), True), (frozenset({"n/1"}), False)):
        (plot,) = plots(log, models)
        assert bool(plot.recorded().failed_batches) is some
        assert bool(plot.play(Variant(REPLAYED), 0).failed_batches) is some


def test_many_kinds_are_told_by_model_alone(record):
    def story():
        for at_ns, event in arrivals(500, 1):
            if type(event) is RequestArrived:
                tenant = f"t{event.id % (MOST_KINDS + 1)}"
                yield at_ns, RequestArrived(event.id, "m/1", 1, 0, (), "", at_ns, tenant=tenant)
            else:
                yield at_ns, event

    (plot,) = plots(record(story()))
    assert [kind.tenant for kind in plot.recorded().workload.kinds] == [""]


def test_a_model_that_never_ran_has_no_times(record):
    def story():
        yield 0, ModelConfigured("m/1", ADAPTIVE)
        yield 5, RequestArrived(1, "m/1", 1, 0, (), "", 5)

    (plot,) = plots(record(story()))
    with pytest.raises(InputError, match="what its batches take is not known"):
        plot.recorded()


def test_a_state_that_this_version_lays_out_otherwise_is_told(record):
    log = record(arrivals(100, 2))
    log.segments = log.segments[1:]
    (plot,) = plots(log)
    (model,) = plot._story.state.models
    ((shapes, times),) = model.times
    older = replace(model, times=((shapes, times[:-1]),))
    plot._story.state = replace(plot._story.state, models=(older,))
    with pytest.raises(InputError, match="cannot restore the scheduler's state in the log: Value"):
        plot.play(Variant(REPLAYED), 0)


def test_too_many_requests_are_refused(record, monkeypatch):
    monkeypatch.setattr("batcher.simulation.logs.story.MOST_REQUESTS", 50)
    with pytest.raises(InputError, match="got more than 50 requests; allowed: a part of the log"):
        plots(record(arrivals(500, 1)))


def test_assignments_change_what_they_name_and_nothing_else():
    tuned = ModelSettings(16, Adaptive(0.5), QueueLimits(max_requests=7), 30 * MILLISECOND)
    (variant,) = variants(
        SECTIONS,
        SECTIONS,
        ["queue.max_requests=9", "batching.utilization_target=0.6"],
        [parse_policy("configured")],
    )
    assert variant.name == "queue.max_requests=9, batching.utilization_target=0.6"
    assert variant.settings("m/1", tuned) == ModelSettings(
        16, Adaptive(0.6), QueueLimits(max_requests=9), 30 * MILLISECOND
    )
    assert variant.settings("other/1", tuned) == tuned


def test_another_policy_replaces_the_whole():
    assert merged(FixedWindow(5), Adaptive(), FixedWindow(3)) == FixedWindow(3)
    assert merged(FixedWindow(5, (2,)), FixedWindow(1), FixedWindow(3)) == FixedWindow(3, (2,))


def test_a_model_of_which_nothing_is_said_cannot_be_changed():
    with pytest.raises(InputError, match="--set: the log does not say how n/1 was configured"):
        variants(SECTIONS, ["n/1"], ["queue.max_requests=9"], [parse_policy("configured")])
