"""Real servers that the HPA's algorithm starts and stops by what `batcher scaler` says, behind gRPC's round robin.

A short version of `python bench/load fleet`, which also holds times and the cost to the simulation: a machine that
does other things beside cannot be held to these.
"""

import json
import signal
from itertools import pairwise

import pytest
from fleet import compare, real
from fleet.callers import OPTIONS, Settings
from fleet.faults import EVENTS
from fleet.scaler import why_not
from fleet.scene import Scene

pytestmark = pytest.mark.slow

SCENE = Scene((30.0, 150.0, 30.0), (4.0, 20.0, 34.0), replicas=1, most=4)
"""One replica, then four times what it should carry at most, then one again: 78 requests a second are its most."""
KILL_S = 16.0
PATIENT = Settings(
    throttled=False,
    options=OPTIONS | {"grpc.keepalive_time_ms": 20_000, "grpc.http2.ping_timeout_ms": 20_000},
)
"""On a slow machine servers are overloaded for longer, and answer pings later."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    if why := why_not():
        pytest.skip(f"a scaler cannot be given a name server of its own here: {why}")
    return tmp_path_factory.mktemp("fleet")


async def test_a_fleet_follows_its_load_and_loses_nothing(whole):
    """Not even as a replica is killed while the load is high."""

    def kill(fleet):
        fleet.signal(fleet.all[0], signal.SIGKILL)

    run = await real.play(SCENE, whole, events=((KILL_S, kill),), callers=PATIENT)
    _, not_answered = compare.real_times(run)
    log = (whole / "scaler.log").read_text()
    assert not run.problems, log
    assert set(not_answered) <= {"refused"}, log
    assert len(run.record.latency_ns) + not_answered["refused"] == len(run.due_ns)
    sizes = [step.desired for step in run.steps]
    assert max(sizes) > 1
    assert sizes[-1] < max(sizes)
    # It never shrinks while the load is high, although a replica does not answer.
    high = [s.desired for s in run.steps if SCENE.steps_ns[0] < s.at_ns < SCENE.steps_ns[1]]
    assert all(before <= after for before, after in pairwise(high))
    killed, *others = run.replicas
    assert killed["exits"] == [-signal.SIGKILL, 0]
    assert [each["exits"] for each in others] == [[0]] * len(others)


async def test_the_figures_are_those_of_both_fleets(whole):
    """What `bench/load fleet` makes of a run, here of a simulated one beside itself."""
    scene = Scene((30.0, 150.0), (4.0, 6.0), replicas=1, most=4)
    due_ns = scene.due_ns()
    sim = compare.simulated(scene, due_ns, {"start_up": 1.0, "known": 0.1, "drain": 5.0})
    took_ns, not_answered = compare.simulated_times(sim)
    records = compare.simulated_records(sim)
    told = compare.figures(scene, due_ns, took_ns, not_answered, records)
    assert told["answered"] + sum(not_answered.values()) == told["requests"] == len(due_ns)
    assert told["replica_seconds"] == pytest.approx(sim.replica_seconds, abs=0.1)
    assert 1 < told["most_replicas"] <= 4
    assert json.dumps(told)
    assert len(EVENTS) == 3
