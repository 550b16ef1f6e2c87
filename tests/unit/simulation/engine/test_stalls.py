"""A part that stalls: what is held up, and what an instance measures of it."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import ModelSettings, NoBatching
from batcher.simulation.engine.stalls import StalledDriver, Stalls, after, ends_of

TOOK_NS = 10 * MILLISECOND
STALL = ((2 * MILLISECOND, 7 * MILLISECOND),)


@pytest.mark.parametrize(
    ("at_ns", "until_ns"), [(0, 0), (1, 1), (2, 5), (4, 5), (5, 5), (6, 6), (8, 9), (9, 9)]
)
def test_a_moment_in_a_spell_waits_for_its_end(at_ns, until_ns):
    assert after(at_ns, ((2, 5), (8, 9))) == until_ns


@pytest.mark.parametrize(
    ("begins_ns", "ends_ns"), [(0, 7), (3, 9), (5, 9), (6, 11), (10, 14), (7, 12)]
)
def test_work_makes_no_progress_in_a_spell(begins_ns, ends_ns):
    assert ends_of(begins_ns, 4, ((2, 5), (9, 10))) == ends_ns


@pytest.mark.parametrize(
    ("part", "settled_ms", "measured_ms"),
    [
        ("loop", [10, 20], 10),
        ("dispatch", [10, 20], 10),
        ("reply", [10, 20], 10),
        ("device", [15, 25], 15),
    ],
)
def test_a_stall_while_a_batch_runs(part, settled_ms, measured_ms):
    assert _played(Stalls(**{part: STALL}), at_ms=0) == (settled_ms, measured_ms)


@pytest.mark.parametrize(
    ("part", "settled_ms", "measured_ms"),
    [
        ("loop", [17, 27], 10),
        ("dispatch", [17, 27], 10),
        ("reply", [13, 23], 10),
        ("device", [17, 27], 14),
    ],
)
def test_a_stall_when_a_batch_is_given(part, settled_ms, measured_ms):
    assert _played(Stalls(**{part: STALL}), at_ms=3) == (settled_ms, measured_ms)


def test_a_report_is_heard_late():
    late = ((9 * MILLISECOND, 12 * MILLISECOND),)
    assert _played(Stalls(reply=late), at_ms=0) == ([12, 22], 10)


def _played(stalls, at_ms):
    """Two requests at one moment, one after the other: when each was answered, what the first measured."""
    settled_ms, measured = [], []

    def observe(now_ns, commands):
        settled_ms.extend(now_ns // MILLISECOND for c in commands if hasattr(c, "outcome"))

    driver = StalledDriver(
        Scheduler(), lambda _, from_ns: (from_ns, from_ns + TOOK_NS), 0, stalls, observe=observe
    )
    report = driver.report
    driver.report = lambda dispatch, timings, at_ns: (
        measured.append((timings.execute_end_ns - timings.execute_start_ns) // MILLISECOND),
        report(dispatch, timings, at_ns),
    )
    up = InstanceUp("i", 1, "m", "d", prefetches=False)
    driver.step([ModelConfigured("m", ModelSettings(1, NoBatching())), up], 0)
    at_ns = at_ms * MILLISECOND
    driver.run([(at_ns, RequestArrived(i, "m", 1, 0, (), "", at_ns)) for i in range(2)])
    return settled_ms, measured[0]
