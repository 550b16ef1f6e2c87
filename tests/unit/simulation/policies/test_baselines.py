"""Each baseline on backlogs small enough to plan by hand: 5 ms + 1 ms a row, at most 8 rows."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import RequestArrived
from batcher.core.policies import PolicyInput, Take, Wait
from batcher.core.queueing.request import LiveRequest
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.simulation.policies.baselines import (
    BASELINES,
    Bento,
    Defer,
    FullClear,
    LazyDrop,
    Nexus,
    RollOut,
)

SETTINGS = ModelSettings(8, FixedWindow(), target_ns=50 * MILLISECOND)


class Times:
    """Learned service times: exactly 5 ms + 1 ms a row, or none."""

    margin = 1.0

    def __init__(self, known):
        self.curve = [0, *((5 + rows) * MILLISECOND for rows in range(1, 9))] if known else ()

    def __bool__(self):
        return bool(self.curve)


def ask(policy, now_ms, *due_ms, rows=1, known=True):
    """The decision about requests that are due then and arrived 50 ms before."""
    group = []
    for request_id, due in enumerate(due_ms):
        due_ns = None if due is None else round(due * MILLISECOND)
        arrival_ns = 0 if due is None else due_ns - 50 * MILLISECOND
        arrived = RequestArrived(request_id, "m", rows, 0, (), "", arrival_ns)
        group.append(LiveRequest(arrived, due_ns, None))
    now_ns = round(now_ms * MILLISECOND)
    return policy.decide(group, PolicyInput(now_ns, (now_ns,), Times(known)))


def wait(until_ms, drop=0):
    return Wait(round(until_ms * MILLISECOND), drop)


@pytest.mark.parametrize("make", [*BASELINES.values(), Nexus])
def test_properties_of_every_baseline(make):
    # All is late: nothing to take. (Bento's last one may be late, but not past its due time.)
    gone = ask(make(SETTINGS), 100, 50, 60)
    assert gone == wait(1100, drop=2)
    # Ample time and a full batch.
    assert ask(make(SETTINGS), 40, *[90] * 9) == Take(8)
    # Before anything was measured, and without due times, batches are as large as can be.
    assert ask(make(SETTINGS), 100, *[120] * 9, known=False) == Take(8)
    assert ask(make(SETTINGS), 100, *[None] * 9) == Take(8)
    # Four requests of three rows: two fit.
    assert ask(make(SETTINGS), 40, *[90] * 4, rows=4) == Take(2)


def test_lazy_drop_keeps_all_that_could_start():
    policy = LazyDrop(SETTINGS)
    assert ask(policy, 94.1, 100, 101, 150) == Take(1, drop=1)
    assert ask(policy, 94, 100, 101, 150) == Take(1)
    # The first request allows two rows, although all would fit without it.
    assert ask(policy, 93, 100, 150, 150) == Take(2)


def test_defer_starts_at_the_last_safe_moment():
    policy = Defer(SETTINGS)
    assert ask(policy, 60, 100, 150) == wait(93)
    assert ask(policy, 93, 100, 150) == Take(2)
    assert ask(policy, 96, 100, 150) == wait(144, drop=1)
    # Without a due time no moment is the last one.
    assert ask(policy, 60, None) == Take(1)
    # A batch that cannot be in time for its first request as a whole goes at once.
    assert ask(policy, 92, 100, 150, 150, 150) == Take(3)


def test_nexus_slides_a_window_of_its_batch():
    # Two batches of 8 take 26 ms, so the target batch is 8.
    policy = Nexus(SETTINGS)
    assert ask(policy, 90, 100, 102, 102.9, *[150] * 7) == Take(7, drop=3)
    assert ask(Nexus(SETTINGS, 2), 90, 100, 102, 103, *[150] * 7) == Take(2)
    assert ask(Nexus(SETTINGS, 99), 90, 100, 102, 103, *[150] * 8) == Take(8, drop=2)
    tight = ModelSettings(8, FixedWindow(), target_ns=18 * MILLISECOND)
    assert ask(Nexus(tight), 40, *[90] * 9) == Take(4)
    hopeless = ModelSettings(8, FixedWindow(), target_ns=MILLISECOND)
    assert ask(Nexus(hopeless), 40, *[90] * 9) == Take(1)


def test_full_clear_gives_up_only_requests_that_delay_the_rest():
    policy = FullClear(SETTINGS)
    # One row at 6 ms, then two more by 7 ms later.
    assert ask(policy, 94, 100, 107, 107) == Take(1)
    assert ask(policy, 94, 100, 106, 106) == Take(2, drop=1)


def test_roll_out_serves_most():
    policy = RollOut(SETTINGS)
    assert ask(policy, 94, 100, 106, 106) == Take(2, drop=1)
    # Two batches of one serve no more than one of two would, and are done later.
    assert ask(policy, 80, 100, 100) == Take(2)
    assert ask(policy, 90, 100, 150, 150) == Take(3)


def test_bento_waits_while_that_is_cheap():
    # One request that has just come: the tick and the slope of a row, 2 ms, against 0.95 x 10 ms.
    assert ask(Bento(SETTINGS), 50, 100) == wait(51)
    assert ask(Bento(SETTINGS), 60, 100) == Take(1)
    # Five would wait 10 ms together.
    assert ask(Bento(SETTINGS), 50, *[100] * 5) == Take(5)


def test_bento_learns_what_requests_usually_wait():
    policy = Bento(SETTINGS)
    for _ in range(200):
        ask(policy, 50, *[100] * 8)
    # No request ever waited, so none does.
    assert ask(policy, 50, 100) == Take(1)


def test_bento_gives_up_first_requests_for_the_batch_behind_them():
    assert ask(Bento(SETTINGS), 95, 100, 101, 120, 120) == Take(2, drop=2)
    # The last one goes although it will be late.
    assert ask(Bento(SETTINGS), 99, 100) == Take(1)
