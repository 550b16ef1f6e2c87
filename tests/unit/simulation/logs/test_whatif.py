"""What-if runs of a log, against what the other settings really do."""

from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.batch_sizes import filled_rows
from batcher.core.commands import Dispatch
from batcher.core.events import (
    CancelCause,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, QueueLimits
from batcher.core.times import NEVER_NS
from batcher.errors import InputError
from batcher.simulation.compare.experiment import Cell
from batcher.simulation.compare.report import summarize
from batcher.simulation.logs.stretch import Samples, stretches
from batcher.simulation.logs.variants import variants
from batcher.simulation.logs.whatif import MOST_KINDS, REPLAYED, Variant, WhatIf
from batcher.simulation.policies.named import parse_policy
from batcher.testing.prefetch import PrefetchingShell

ADAPTIVE = ModelSettings(32, Adaptive(), target_ns=50 * MILLISECOND)


@pytest.mark.slow
def test_without_noise_the_replayed_run_equals_the_recorded_one(record, arrivals, summaries):
    recorded, replayed = summaries(record(arrivals(900, 5)))
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
def test_a_prefetched_batch_began_when_the_batch_before_it_ended(
    record, rate, cost, arrivals, summaries
):
    played = []

    def driver(scheduler):
        played.append(PrefetchingShell(scheduler, cost, MILLISECOND, lambda now, commands: None))
        return played[0]

    recorded, replayed = summaries(record(arrivals(rate, 5, prefetches=True), driver=driver))
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
def test_a_what_if_is_close_to_a_real_run_with_the_settings(
    record, policy, assignments, really, noise, device, arrivals, summaries
):
    log = record(arrivals(800, 10), device(noise, seed=1))
    *_, guessed = summaries(log, policy, assignments=assignments)
    settings = ModelSettings(
        **{"max_batch_size": 32, "policy": Adaptive(), "target_ns": 50 * MILLISECOND} | really
    )
    real, _ = summaries(record(arrivals(800, 10, settings), device(noise, seed=2)))
    assert guessed.counts.p99_ms == pytest.approx(real.counts.p99_ms, rel=0.1)
    assert guessed.counts.p50_ms == pytest.approx(real.counts.p50_ms, rel=0.1)
    assert guessed.mean_batch == pytest.approx(real.mean_batch, rel=0.05)
    assert guessed.counts.on_time / 8000 == pytest.approx(real.counts.on_time / 8000, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 8, 32), (32,)])
def test_a_what_if_with_batch_sizes_is_close_to_a_real_run(
    record, sizes, cost, arrivals, summaries
):
    def filled(dispatch):
        rows = sum(part.stop - part.start for part in dispatch.parts)
        return cost(filled_rows(rows, sizes))

    assigned = [f"batching.batch_sizes={list(sizes)}"]
    log = record(arrivals(600, 8))
    *_, guessed = summaries(log, "configured", assignments=assigned)
    real_log = record(arrivals(600, 8, replace(ADAPTIVE, batch_sizes=sizes)), filled)
    real, replayed = summaries(real_log)
    for found in (guessed, replayed):
        assert found.counts.p99_ms == pytest.approx(real.counts.p99_ms, rel=0.1)
        assert found.mean_batch == pytest.approx(real.mean_batch, rel=0.05)
        assert found.busy_fraction == pytest.approx(real.busy_fraction, rel=0.05)


@pytest.mark.slow
def test_equal_seeds_give_equal_runs(record, device, arrivals, summaries):
    log = record(arrivals(800, 3), device(0.2))
    one, two, other = (summaries(log, "greedy", seed=seed)[2] for seed in (1, 1, 2))
    assert one == two
    assert one != other


@pytest.mark.slow
def test_it_begins_where_a_segment_does(record, device, arrivals, summaries):
    found = []
    for seed in range(3):
        log = record(arrivals(1200, 6, seed=seed), device(0.05, seed=seed))
        log.segments = log.segments[3:]
        found.append(summaries(log))
    for recorded, _ in found:
        assert 3000 < recorded.counts.requests < 3700
        assert recorded.rate == pytest.approx(1200, rel=0.1)
    # The p99 of one run of 3 s is off by up to 10 % by chance.
    real_ms, replayed_ms = (
        sum(run.counts.p99_ms for run in runs) for runs in zip(*found, strict=True)
    )
    assert replayed_ms == pytest.approx(real_ms, rel=0.05)


@pytest.fixture
def changing(arrivals):
    """`changing(rate, seconds, *targets_ms)`: arrivals, and every second the next target."""

    def call(rate, seconds, *targets_ms):
        first, *others = (replace(ADAPTIVE, target_ns=ms * MILLISECOND) for ms in targets_ms)
        changes = [(n * SECOND, ModelConfigured("m/1", each)) for n, each in enumerate(others, 1)]
        return sorted([*arrivals(rate, seconds, first), *changes], key=lambda each: each[0])

    return call


@pytest.fixture
def targets_in_force(what_ifs, sections):
    """`targets_in_force(log, *assignments)`: each target, in ms, that the batches of a what-if had."""

    def call(log, *assignments):
        (what_if,) = what_ifs(log)
        (variant,) = variants(sections, sections, assignments, [parse_policy("configured")])
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
            what_if.play(variant, 0)
        return found

    return call


def test_an_assignment_holds_whatever_the_log_changes(record, changing, targets_in_force):
    log = record(changing(200, 3, 50, 20, 40))
    assert targets_in_force(log) == [50, 20, 40]
    for wanted in (50, 20, 45):  # that of the start among them
        assert targets_in_force(log, f"batching.target_p99={wanted}ms") == [wanted]
    assert targets_in_force(log, "queue.max_requests=9") == [50, 20, 40]


def test_an_assignment_holds_from_the_middle_of_a_log_on(
    record, targets_in_force, arrivals, summaries
):
    log = record(arrivals(200, 3))
    log.segments = log.segments[2:]
    assert not any(type(e) is ModelConfigured for s in log.segments[0].steps() for e in s.events)
    assert targets_in_force(log, "batching.target_p99=25ms") == [25]
    recorded, _, tried = summaries(log, "none")
    assert recorded.mean_batch > 1
    assert tried.mean_batch == 1


@pytest.mark.slow
def test_a_gap_makes_two_stretches(record, arrivals, what_ifs):
    log = record(arrivals(800, 5))
    del log.segments[2]
    both = what_ifs(log)
    assert len(both) == 2
    runs = [what_if.recorded() for what_if in both]
    assert sum(len(run.workload) for run in runs) == pytest.approx(3200, rel=0.1)
    pooled = summarize(Cell(None, tuple(runs)), 1000)
    assert pooled.rate == pytest.approx(800, rel=0.1)


def test_a_batch_prefetched_behind_one_from_before_the_log_begins_after_it(record, cost, arrivals):
    def driver(scheduler):
        return PrefetchingShell(scheduler, cost, MILLISECOND, lambda now, commands: None)

    log = record(arrivals(1800, 2, prefetches=True), driver=driver)
    for segment in log.segments[1:]:
        assert segment.state().batches
        samples = Samples(32)
        list(stretches([segment], NEVER_NS, samples))
        took_ns = [each.took_ns for each in samples.batches._samples["m/1", None, None]]
        assert max(took_ns) <= cost(32) + MILLISECOND


def test_cancelled_requests_are_cancelled_again(record, arrivals, summaries):
    def events():
        for at_ns, event in arrivals(500, 2):
            yield at_ns, event
            if type(event) is RequestArrived and event.id % 10 == 0:
                yield at_ns, RequestCancelled(event.id, CancelCause.CANCELLED)

    recorded, replayed = summaries(record(events()))
    assert recorded.dropped_by == replayed.dropped_by == {"cancelled:caller_cancelled": 100}


@pytest.mark.slow
def test_refused_and_expired_requests_are_reproduced(record, arrivals, summaries):
    settings = ModelSettings(
        32, FixedWindow(), QueueLimits(max_requests=20, timeout_ns=10 * MILLISECOND)
    )
    recorded, replayed = summaries(record(arrivals(3000, 2, settings)))
    assert {"rejected:queue_requests", "expired:queue_timeout"} <= set(recorded.dropped_by)
    assert replayed.dropped_by == pytest.approx(recorded.dropped_by, rel=0.05)


def test_due_times_of_requests_take_precedence_over_the_target(record, arrivals, what_ifs, summary):
    (what_if,) = what_ifs(record(arrivals(100, 1, due_ns=1)))
    assert summary(what_if, what_if.recorded()).counts.on_time == 0


def test_requests_whose_end_was_not_recorded_are_not_reported(record, arrivals, what_ifs):
    log = record(arrivals(500, 2))
    cut_ns = SECOND // 2
    (what_if,) = what_ifs(log, until_ns=cut_ns)
    run = what_if.recorded()
    assert run.workload.at_ns.max() < cut_ns
    assert (run.settled_ns <= cut_ns).all()
    assert (run.outcome >= 0).all()
    replayed = what_if.play(Variant(REPLAYED), 0)
    assert len(replayed.workload) == len(run.workload)


def test_one_model_of_two(record, arrivals, what_ifs, summary):
    def events():
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

    log = record(events())
    (both,) = what_ifs(log)
    found = summary(both, both.recorded())
    assert {kind.model: counts.requests for kind, counts in found.groups.items()} == {
        "m/1": 500,
        "n/1": 125,
    }
    (one,) = what_ifs(log, frozenset({"n/1"}))
    assert one.requests == 125
    assert summary(one, one.recorded()).counts.requests == 125
    (other,) = what_ifs(log, frozenset({"m/1"}))
    for run in (WhatIf.recorded, lambda what_if: what_if.play(Variant(REPLAYED), 0)):
        all_, mine, its = (summary(what_if, run(what_if)) for what_if in (both, one, other))
        assert 0 < mine.batches < its.batches
        assert mine.batches + its.batches == all_.batches
        assert mine.mean_batch * mine.batches == pytest.approx(125)


def test_many_kinds_are_reported_by_model_alone(record, arrivals, what_ifs):
    def events():
        for at_ns, event in arrivals(500, 1):
            if type(event) is RequestArrived:
                tenant = f"t{event.id % (MOST_KINDS + 1)}"
                yield at_ns, RequestArrived(event.id, "m/1", 1, 0, (), "", at_ns, tenant=tenant)
            else:
                yield at_ns, event

    (what_if,) = what_ifs(record(events()))
    assert [kind.tenant for kind in what_if.recorded().workload.kinds] == [""]


def test_a_model_that_never_ran_has_no_times(record, what_ifs):
    def events():
        yield 0, ModelConfigured("m/1", ADAPTIVE)
        yield 5, RequestArrived(1, "m/1", 1, 0, (), "", 5)

    (what_if,) = what_ifs(record(events()))
    with pytest.raises(InputError, match="what its batches take is not known"):
        what_if.recorded()


def test_a_state_of_another_version_is_an_error(record, arrivals, what_ifs):
    log = record(arrivals(100, 2))
    log.segments = log.segments[1:]
    (what_if,) = what_ifs(log)
    (model,) = what_if._stretch.state.models
    ((shapes, times),) = model.times
    older = replace(model, times=((shapes, times[:-1]),))
    what_if._stretch.state = replace(what_if._stretch.state, models=(older,))
    with pytest.raises(InputError, match="cannot restore the scheduler's state in the log: Value"):
        what_if.play(Variant(REPLAYED), 0)


def test_too_many_requests_are_refused(record, monkeypatch, arrivals, what_ifs):
    monkeypatch.setattr("batcher.simulation.logs.stretch.MOST_REQUESTS", 50)
    with pytest.raises(InputError, match="got more than 50 requests; choose a part of the log"):
        what_ifs(record(arrivals(500, 1)))
