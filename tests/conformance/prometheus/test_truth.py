"""What a real Prometheus reads from `/metrics` is what is known from the outside."""

import os
import signal

import pytest
from truth.prometheus import Sample
from truth.scene import ModelPlan, Scene, one, poisson
from truth.statements import STATEMENTS, untruths
from truth.steps import Steps, Stream
from truth.world import SECOND, Batch, Event, codes

from batcher.telemetry.families import FAMILIES

CAPACITY = 16 / 0.052
"""Rows a second of `ModelPlan()`: 16 in 52 ms."""

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


def test_every_family_is_in_a_statement():
    assert {family.name for family in FAMILIES} == set(STATEMENTS)


def test_idle(true):
    true(Scene(seconds=2))


def test_half_of_capacity(true):
    requests = poisson(0.5 * CAPACITY, 4)
    world = true(Scene(requests=requests))
    assert codes(list(world.requests.values())) == {"OK": len(requests)}


def test_near_capacity(true):
    true(Scene(requests=poisson(0.95 * CAPACITY, 5)))


def test_overload(true):
    world = true(Scene(requests=poisson(1.5 * CAPACITY, 6)))
    assert codes(list(world.requests.values()))["RESOURCE_EXHAUSTED"] > 50


@pytest.mark.parametrize("transport", ["builtin", "grpcio"])
def test_callers_that_give_up_or_ask_for_what_is_not_there(true, transport):
    requests = [
        *poisson(40, 3),
        *(one(1000 + i, 0.1 + i / 10, cancel_s=0.004) for i in range(20)),
        *(one(2000 + i, 0.15 + i / 10, "fail") for i in range(10)),
        *(one(3000 + i, 0.12 + i / 10, "wide") for i in range(10)),
        *(one(4000 + i, 0.13 + i / 10, model="nothing") for i in range(7)),
        *(one(5000 + i, 0.14 + i / 10, deadline_s=0.001) for i in range(10)),
    ]
    facts = {"unread": {"unknown_model": 7}}
    true(Scene(requests=requests, config={"server": {"transport": transport}}, facts=facts))


@pytest.mark.parametrize("transport", ["builtin", "grpcio"])
def test_streams(true, transport):
    requests = [*poisson(100, 3), *(one(3000 + i, 0.1 + i / 10, "wide") for i in range(10))]
    true(Scene(requests=requests, stream=True, config={"server": {"transport": transport}}))


HANG_S = 2.0
"""When a batch begins to hang, or its process is stopped."""

TIMEOUT_S = 2.5
"""After so long it is given up."""

BEHIND = [one(6000 + i, HANG_S + 0.3 + i / 20, deadline_s=0.5 + i / 10) for i in range(10)]
"""What waits behind it, as long as its callers do."""

AFTER = poisson(20, 2, begin_s=HANG_S + TIMEOUT_S + 2, first=8000)
LOST = {"batcher_instance_losses_total": {frozenset({("reason", "hung")}): 1}}


def given_up(world, hung_ns):
    """The instance is given up when a batch has hung for `TIMEOUT_S`, and the next one is loaded at once."""
    lost_ns = hung_ns + int(TIMEOUT_S * SECOND)
    loading = [each["at"] for each in world.life["hello"] if each["kind"] == "loading"]
    (again_ns,) = [at_ns for at_ns in loading if at_ns > hung_ns]
    warm = [b for b in world.batches["hello"] if not b.requests and b.begin_ns > again_ns]
    assert len(warm) >= 2
    world.events += [
        Event("lost", lost_ns - SECOND // 20),
        Event("gone", lost_ns + SECOND // 5),
        Event("loading", again_ns),
        Event("back", max(batch.end_ns for batch in warm) + SECOND // 5),
    ]


def test_a_thread_that_hangs(true):
    def release(playing):
        (playing.folder / "hello.release").touch()

    def known(world):
        (hung,) = world.requests[5000].batches
        hung.end_ns = None  # what it did after it was given up is of no account
        given_up(world, hung.begin_ns)

    scene = Scene(
        models=[ModelPlan(keys={"execute_timeout": f"{TIMEOUT_S}s"})],
        requests=[*poisson(40, HANG_S - 0.5), one(5000, HANG_S, "hang"), *BEHIND, *AFTER],
        acts=[(HANG_S + TIMEOUT_S + 3, release)],
        facts={"expect": LOST},
    )
    assert true(scene, known).requests[5000].code == "UNAVAILABLE"


def test_a_child_that_is_stopped(true):
    def stop(playing):
        (pid,) = playing.pids("hello")
        os.kill(pid, signal.SIGSTOP)

    def known(world):
        # The stopped child could not write down what it was given.
        given = world.requests[5000]
        given.batches.append(Batch("hello", 0, "", given.sent_ns, [given.id]))
        world.batches["hello"].append(given.batches[0])
        given_up(world, given.sent_ns)

    keys = {"isolation": "process", "execute_timeout": f"{TIMEOUT_S}s"}
    scene = Scene(
        models=[ModelPlan(keys=keys)],
        requests=[*poisson(40, HANG_S - 0.5), one(5000, HANG_S + 0.1), *BEHIND, *AFTER],
        acts=[(HANG_S, stop)],
        facts={"expect": LOST},
    )
    assert true(scene, known).requests[5000].code == "UNAVAILABLE"


GPU = {
    "uuid": "GPU-8c4b1a52-0d3e-4f6a-9b7c-1e2f3a4b5c6d",
    "product": "NVIDIA H100 80GB HBM3",
    "utilization": 61,
    "memory_total": 85_520_809_984,
    "memory_used": 40_265_318_400,
    "power_mw": 412_351,
    "energy_mj": 98_765_432_100,
    "temperature": 54,
    "sm_clock": 1980,
    "reasons": 0x4,
    "corrected": 3,
    "gpm_occupancy": 33.0,
    "gpm_tensor": 21.0,
    "gpm_bandwidth": 12.5,
}


def test_a_gpu(true):
    true(
        Scene(
            models=[ModelPlan(keys={"device": "gpu0"})],
            requests=poisson(100, 3),
            config={"devices": {"gpu0": {"gpu": 0}}},
            gpu=GPU,
        )
    )


def test_a_device_that_is_lost(true):
    """Its instances are unready at once; what was read last stays, with its age."""

    def lose(playing):
        playing.note("gpu lost")
        playing.fake_gpu(GPU | {"error": "GPU_IS_LOST"})

    def known(world):
        lost_ns = world.event("gpu lost")
        world.events += [Event("lost", lost_ns), Event("gone", lost_ns + 4 * SECOND)]

    scene = Scene(
        models=[ModelPlan(keys={"device": "gpu0"})],
        requests=[*poisson(60, 2), *poisson(10, 3, begin_s=6.5, first=8000)],
        config={"devices": {"gpu0": {"gpu": 0}}},
        gpu=GPU,
        acts=[(2.5, lose)],
        facts={"expect": {"batcher_instance_losses_total": {frozenset({("reason", "device")}): 1}}},
    )
    world = true(scene, known)
    late = [each for each in world.requests.values() if each.id >= 8000]
    assert codes(late) == {"UNAVAILABLE": len(late)}


def test_a_restart(true):
    """While the server drains, it serves on and says so; afterwards, every count begins at 0."""

    def lives(world):
        first, last = world.events[0].at_ns, world.event("end")
        stop, down, up = (world.event(each) for each in ("stop", "down", "up"))
        assert None not in {stop, down, up}
        return [
            world.during(first, down, world.event("ready")),
            world.during(down + 1, last, up),
        ]

    scene = Scene(
        requests=[
            *poisson(100, 2.5),
            *(one(5000 + i, 3.2 + i / 20) for i in range(10)),
            *poisson(100, 3, begin_s=11, first=8000),
        ],
        config={"server": {"drain_delay": "2s"}},
        connections=1,
        acts=[(3, lambda playing: playing.restart())],
        interval="250ms",
    )
    world = true(scene, lives=lives)
    assert codes([each for each in world.requests.values() if each.id < 8000]).keys() == {"OK"}


def test_models_that_share_a_device(true):
    """With another target, another size and a priority each: what is offered to one device adds up."""
    keys = {"device": "shared"}
    models = [
        ModelPlan("first", keys=keys),
        ModelPlan("second", base_ms=10, row_ms=4, keys=keys, batching={"target_p99": "120ms"}),
        ModelPlan("sized", base_ms=12, row_ms=1, keys=keys, batching={"batch_sizes": [1, 4, 16]}),
    ]
    requests = [
        *poisson(40, 5, model="first"),
        *poisson(30, 5, model="second", first=3000, seed=2),
        *poisson(25, 5, model="sized", first=6000, rows=2, seed=3),
    ]
    true(Scene(models=models, requests=requests))


def test_the_scale_signal_follows_steps(true):
    steps = Steps((0.5, 1.6, 0.3), 7.0)
    for each in steps.seen(true(steps.scene())):
        assert each.right, each


def test_the_scale_signal_knows_buckets_and_priorities(true):
    plan = ModelPlan(base_ms=40, row_ms=2, padded=(4, 16), batching={"target_p99": "400ms"})
    streams = [
        Stream(plan, 0.5, columns=3, priorities=(1, 3)),
        Stream(plan, 0.5, columns=10, rows=2),
    ]
    steps = Steps((0.7, 1.5), 7.0, streams)
    for each in steps.seen(true(steps.scene())):
        assert each.right, each


UNKNOWABLE = {
    "batcher_event_loop_lag_seconds": "of the lags only the most is known, of their number an estimate",
    "batcher_prediction_margin_ratio": "the server alone knows how uneven it finds its batches",
    "batcher_buffered_bytes": "what is kept beside the values is known to a factor",
    "batcher_buffered_limit_bytes": "a quarter of the machine's memory",
    "batcher_buffered_peak_bytes": "nothing outside sees the peak",
}
"""Families of which little is known outside: their statements are bounds."""


def test_statements_notice_what_is_untrue(true):
    """Each family with samples, off by 30 % and two, is untrue."""
    scene = Scene(
        models=[ModelPlan(keys={"device": "gpu0"})],
        requests=poisson(0.6 * CAPACITY, 4),
        config={"devices": {"gpu0": {"gpu": 0}}},
        gpu=GPU,
    )
    world = true(scene)
    unnoticed = []
    for family in FAMILIES:
        names = [f"{family.name}{each}" for each in ("", "_total", "_count", "_sum", "_bucket")]
        there = {name: world.series[name] for name in names if name in world.series}
        for name, series in there.items():
            world.series[name] = {
                labels: [Sample(each.at_ns, each.value * 1.3 + 2) for each in samples]
                for labels, samples in series.items()
            }
        if there and not untruths(world, [family.name]):
            unnoticed.append(family.name)
        world.series |= there
    assert set(unnoticed) <= set(UNKNOWABLE)
