from dataclasses import replace

import numpy as np

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.policies import BatchPolicy, Take
from batcher.core.settings import Adaptive, QueueLimits
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.service_time import Noise, Slowdown, TimerDelay
from batcher.simulation.engine.simulation import (
    OUTCOMES,
    REASONS,
    ClosedLoop,
    Conditions,
    generator,
    simulate,
)
from batcher.simulation.policies.named import NamedPolicy, parse_policy
from batcher.simulation.traffic.arrivals import Poisson, arrival_times
from batcher.simulation.traffic.workload import Kind, Traffic, Workload, parse_mix

GREEDY = parse_policy("greedy")
ONE = Traffic(parse_mix("m"))


def at(*moments_ms):
    """One-row requests of model m at these moments."""
    times = np.array([round(ms * MILLISECOND) for ms in moments_ms], np.int64)
    return Workload.of(times, ONE, generator(0, "x"))


def poisson(rate, count, seed=1):
    times = arrival_times(Poisson(rate), generator(seed, "arrivals"), requests=count)
    return Workload.of(times, ONE, generator(seed, "traffic"))


def ms(run):
    return (run.settled_ns / MILLISECOND).tolist()


def test_batches_form_late_and_take_what_the_curve_says(deployment):
    run = simulate(deployment, GREEDY, at(0, 1, 2, 20))
    assert ms(run) == [6, 13, 13, 26]
    assert run.batches.tolist() == [1, 2, 1]
    assert run.batch_rows.tolist() == [1, 2, 2, 1]
    assert run.busy_ns == {"device": 19 * MILLISECOND}
    assert run.ended_ns == 26 * MILLISECOND
    assert run.errors == ()


def test_a_batch_waits_for_its_window(deployment):
    run = simulate(deployment, parse_policy("fixed:4ms"), at(0, 1))
    assert ms(run) == [11, 11]


def test_late_timers_make_the_window_longer(deployment):
    late = Conditions(timer_delay=TimerDelay(MILLISECOND, "constant"))
    assert ms(simulate(deployment, parse_policy("fixed:4ms"), at(0), late)) == [11]


def test_events_of_a_pause_are_handled_at_its_end(deployment):
    pauses = Conditions(pauses=((0, MILLISECOND), (4 * MILLISECOND, 9 * MILLISECOND)))
    run = simulate(deployment, GREEDY, at(0, 5, 8, 30), pauses)
    # The first batch ends at 7 ms, which is noticed at 9.
    assert ms(run) == [9, 16, 16, 36]
    assert run.busy_ns == {"device": 19 * MILLISECOND}
    unseen = Conditions(pauses=((1, 2), (3, 4), (6 * MILLISECOND - 1, 6 * MILLISECOND + 5)))
    assert simulate(deployment, GREEDY, at(0, 20), unseen).settled_ns.tolist() == [
        6 * MILLISECOND + 5,
        26 * MILLISECOND,
    ]
    far = Conditions(batch_gap_ns=2 * MILLISECOND, pauses=pauses.pauses)
    assert ms(simulate(deployment, GREEDY, at(0), far)) == [9]
    assert ms(simulate(deployment, GREEDY, at(9), far)) == [17]


def test_answers_are_sent_one_after_the_other(deployment):
    slow = Conditions(reply_ns=2 * MILLISECOND)
    run = simulate(deployment, GREEDY, at(0, 1, 2, 20), slow)
    assert ms(run) == [8, 15, 17, 28]
    assert run.busy_ns == {"device": 19 * MILLISECOND}


def test_a_batch_for_an_idle_instance_takes_longer_by_the_gap(deployment):
    far = Conditions(batch_gap_ns=2 * MILLISECOND)
    run = simulate(deployment, GREEDY, at(0, 1, 2, 20), far)
    assert ms(run) == [8, 17, 17, 28]
    assert run.busy_ns == {"device": 19 * MILLISECOND}
    replying = Conditions(batch_gap_ns=2 * MILLISECOND, reply_ns=MILLISECOND)
    assert ms(simulate(deployment, GREEDY, at(0, 1, 2), replying)) == [9, 18, 19]


def test_the_next_batch_is_prefetched_where_a_backlog_waits(model):
    """The device waits for no batch, except for the first and where there was no other request."""
    settings = replace(model().settings, policy=Adaptive(), target_ns=200 * MILLISECOND)
    deployment = Deployment((replace(model(), settings=settings),), {})
    flood = poisson(1.3 * deployment.capacity(ONE), 4000)
    ends = {
        gap_ms: simulate(
            *(deployment, parse_policy("configured"), flood),
            Conditions(batch_gap_ns=gap_ms * MILLISECOND),
        )
        for gap_ms in (0, 2)
    }
    idle = {gap_ms: 1 - run.busy_ns["device"] / run.ended_ns for gap_ms, run in ends.items()}
    assert idle[0] < 0.01
    # Each batch takes 13 ms: 2 ms more would be 13 %.
    assert idle[2] < 0.04
    assert ends[2].batches.mean() > 7.5


def test_an_instance_that_runs_several_batches_has_none_prefetched(model):
    deployment = Deployment((model(max_in_flight=2),), {})
    run = simulate(deployment, GREEDY, at(0, 1), Conditions(batch_gap_ns=2 * MILLISECOND))
    assert ms(run) == [8, 9]


def test_a_caller_sends_its_next_request_when_its_answer_is_sent(deployment):
    loop = ClosedLoop(2, at(*[0] * 4))
    run = simulate(deployment, GREEDY, loop, Conditions(reply_ns=MILLISECOND))
    assert (run.workload.at_ns // MILLISECOND).tolist() == [0, 0, 8, 9]


def test_refused_and_expired_requests_are_counted_apart(model):
    full = Deployment((model(queue=QueueLimits(max_requests=1)),), {})
    run = simulate(full, GREEDY, at(0, 1, 2), Conditions(deadline_ns=4 * MILLISECOND))
    assert [OUTCOMES[code] for code in run.outcome] == [
        Outcome.EXPIRED,
        Outcome.EXPIRED,
        Outcome.REJECTED,
    ]
    assert [REASONS[code] for code in run.reason] == [
        Reason.CALLER_DEADLINE,
        Reason.CALLER_DEADLINE,
        Reason.QUEUE_REQUESTS,
    ]
    # The first left while its request ran.
    assert run.batch_rows.tolist() == [1, 0, 0]


def test_a_caller_cancels_at_its_deadline_whether_or_not_its_request_runs(deployment):
    # The second runs from 6 to 12 ms; an answer at the very moment still reaches the first.
    run = simulate(deployment, GREEDY, at(0, 5, 30), Conditions(deadline_ns=6 * MILLISECOND))
    assert [OUTCOMES[code] for code in run.outcome] == [Outcome.OK, Outcome.EXPIRED, Outcome.OK]
    assert run.reason[1] == REASONS.index(Reason.CALLER_DEADLINE)
    assert run.batch_rows.tolist() == [1, 1, 1]
    assert run.busy_ns == {"device": 18 * MILLISECOND}


def test_a_caller_that_cancelled_sends_its_next_request(deployment):
    loop = ClosedLoop(1, at(0, 0))
    run = simulate(deployment, GREEDY, loop, Conditions(deadline_ns=4 * MILLISECOND))
    assert run.workload.at_ns.tolist() == [0, 5 * MILLISECOND + 1]


def test_batches_in_a_slowdown_take_longer(deployment):
    slowdown = Conditions(slowdowns=(Slowdown(0, 10 * MILLISECOND, 2.0),))
    assert ms(simulate(deployment, GREEDY, at(0, 20), slowdown)) == [12, 26]


def test_equal_seeds_give_equal_runs_and_noise_is_in_them(model):
    noisy = Deployment((model(noise=Noise("uniform", 0.3)),), {})
    load = poisson(300, 200)
    runs = [simulate(noisy, GREEDY, load, Conditions(seed=seed)) for seed in (1, 1, 2)]
    assert ms(runs[0]) == ms(runs[1])
    assert ms(runs[0]) != ms(runs[2])


def test_several_instances_work_at_once(model):
    two = Deployment((model(instances=2),), {})
    assert ms(simulate(two, parse_policy("none"), at(0, 0, 0))) == [6, 6, 12]


def test_models_have_their_own_queues(model):
    both = Deployment((model("a", device="x"), model("b", device="y")), {})
    kinds = (Kind("a", "", 0), Kind("b", "", 0))
    load = Workload(np.zeros(3, np.int64), np.ones(3, np.int64), np.array([0, 1, 1]), kinds)
    run = simulate(both, GREEDY, load)
    assert ms(run) == [6, 7, 7]
    assert run.busy_ns == {"x": 6 * MILLISECOND, "y": 7 * MILLISECOND}


def test_every_request_is_settled_once_under_overload(deployment):
    run = simulate(deployment, GREEDY, poisson(2000, 3000))
    assert set(run.outcome.tolist()) == {
        OUTCOMES.index(Outcome.OK),
        OUTCOMES.index(Outcome.REJECTED),
    }
    assert run.batches.sum() == (run.outcome == OUTCOMES.index(Outcome.OK)).sum()


def test_progress_is_reported_to_the_end(deployment):
    reports = []
    simulate(deployment, GREEDY, poisson(300, 5000), progress=reports.append)
    assert reports == [0, 4096, 5000]


class TestClosedLoop:
    def test_a_caller_asks_again_when_it_has_its_answer(self, deployment):
        loop = ClosedLoop(1, at(0, 0, 0), think_ns=2 * MILLISECOND)
        run = simulate(deployment, GREEDY, loop)
        assert (run.workload.at_ns / MILLISECOND).tolist() == [0, 8, 16]
        assert ms(run) == [6, 14, 22]

    def test_time_ends_it(self, deployment):
        loop = ClosedLoop(2, at(*[0] * 100), until_ns=20 * MILLISECOND)
        run = simulate(deployment, GREEDY, loop)
        assert (run.workload.at_ns / MILLISECOND).tolist() == [0, 0, 7, 7, 14, 14]

    def test_a_refused_caller_waits_as_long_as_it_was_told(self, model):
        full = Deployment((model(queue=QueueLimits(max_requests=1)),), {})
        run = simulate(full, GREEDY, ClosedLoop(3, at(*[0] * 5)))
        sent_ms = (run.workload.at_ns / MILLISECOND).tolist()
        assert run.outcome.tolist().count(OUTCOMES.index(Outcome.REJECTED)) == 3
        assert sent_ms == [0, 0, 0, 100, 100]  # QUEUE_FULL_RETRY_NS later

    def test_progress(self, deployment):
        reports = []
        simulate(deployment, GREEDY, ClosedLoop(4, at(*[0] * 2000)), progress=reports.append)
        assert reports == [0, 1024, 2000]


def test_a_policy_that_breaks_its_contract_is_reported(deployment):
    class Wrong(BatchPolicy):
        def decide(self, group, now_ns):
            return Take(99)

    run = simulate(deployment, NamedPolicy("wrong", lambda s: s, lambda settings: Wrong()), at(0))
    assert len(run.errors) == 1
    assert run.errors[0].startswith("m: ValueError: took 99 behind 0 of 1")


def test_streams_of_one_seed_differ_by_purpose():
    assert generator(1, "a").random() != generator(1, "b").random()
    assert generator(1, "a").random() == generator(1, "a").random()
