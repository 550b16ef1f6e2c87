from types import SimpleNamespace

from batcher.clock import SECOND
from batcher.simulation.fleet.replicas import _stay, apart


def pod(name, *, known=True, ready_s=0, started_s=0, starts=0, uid=0):
    return SimpleNamespace(
        name=name,
        known=known,
        ready_ns=ready_s * SECOND if known else None,
        started_ns=started_s * SECOND,
        starts=starts,
        uid=uid,
    )


def order(*pods, now_s=1000):
    return [each.name for each in sorted(pods, key=lambda each: _stay(now_s * SECOND, each))]


def test_pods_are_stopped_in_the_order_of_a_replica_set():
    assert order(pod("ready"), pod("starts", known=False, started_s=500)) == ["starts", "ready"]
    # Ready for 950, 300 and 10 s.
    old, middle, new = pod("old", ready_s=50), pod("middle", ready_s=700), pod("new", ready_s=990)
    assert order(old, middle, new) == ["new", "middle", "old"]
    # 900 and 600 s count as equal: both are above 2^39 ns, which is 550 s.
    a, b = pod("a", ready_s=100, uid=2), pod("b", ready_s=400, uid=1)
    assert order(a, b) == ["b", "a"]
    assert order(pod("a", ready_s=400, uid=2), pod("b", ready_s=100, uid=1)) == ["b", "a"]
    # Then restarts, more of them first, and then age.
    assert order(pod("steady", uid=1), pod("shaky", starts=3, uid=2)) == ["shaky", "steady"]
    first, last = pod("first", known=False, started_s=10), pod("last", known=False, started_s=999)
    assert order(first, last) == ["last", "first"]


def test_spells_that_touch_are_one():
    assert apart([(0, 5), (3, 8), (8, 9), (20, 21)]) == ((0, 9), (20, 21))
    assert apart([(0, 10), (2, 3)]) == ((0, 10),)
    assert apart([]) == ()
