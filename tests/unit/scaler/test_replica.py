import pytest

from batcher.clock import SECOND
from batcher.scaler.discovery import Endpoint
from batcher.scaler.replica import PollResult, Replica, State


@pytest.fixture
def fresh(now):
    """A replica that was never asked, by what the list says of it."""

    def make(ready=None):
        endpoint = Endpoint("127.0.0.1:8001", ready)
        return Replica(endpoint, now(), fresh_ns=4 * SECOND, keep_ns=30 * SECOND)

    return make


def test_a_replica_that_was_not_asked_yet_is_unknown(fresh, now):
    replica = fresh()
    assert replica.state(now()) is State.UNKNOWN
    assert not replica.is_known(now())
    assert replica.asked_ns == now()


def test_a_report_is_of_now_kept_and_forgotten(heard, now):
    replica = heard(ratio=0.5)
    for after_s, state in ((0, State.KNOWN), (4, State.KNOWN), (5, State.KEPT), (30, State.KEPT)):
        now.s = 1000 + after_s
        assert replica.state(now()) is state
        assert replica.reported(now()).load == 0.5
        assert replica.is_known(now()) is (state is State.KNOWN)
    now.s = 1031
    assert replica.state(now()) is State.UNKNOWN
    assert replica.reported(now()) is None


def test_one_lost_poll_says_nothing(heard, now):
    replica = heard()
    now.s += 1
    replica.failed(PollResult.TIMEOUT, "late")
    assert replica.state(now()) is State.KNOWN


def test_a_report_that_is_not_believed_says_at_once_that_something_is_wrong(heard, now):
    replica = heard(ratio=0.5)
    now.s += 1
    heard(ratio=-1.0)
    assert replica.state(now()) is State.KEPT
    assert replica.reported(now()).load == 0.5
    assert not replica.is_known(now())


@pytest.mark.parametrize("state", [{"draining": True}, {"ready": False}])
def test_it_says_itself_that_it_is_not_ready(heard, now, state):
    replica = heard(**state)
    assert replica.state(now()) is State.NOT_READY
    assert replica.is_known(now())


@pytest.mark.parametrize("result", [PollResult.UNREACHABLE, PollResult.TIMEOUT])
def test_the_list_says_that_it_starts(fresh, now, result):
    replica = fresh(ready=False)
    replica.failed(result, "it does not listen yet")
    assert replica.state(now()) is State.NOT_READY
    assert not replica.is_known(now()), "no word of its own: the fleet is not idle"


def test_a_replica_that_hangs_and_so_gets_unready_is_not_one_that_starts(heard, now):
    replica = heard(ratio=0.9)
    now.s += 10
    replica.endpoint = Endpoint("127.0.0.1:8001", ready=False)
    replica.failed(PollResult.TIMEOUT, "hung")
    assert replica.state(now()) is State.KEPT
    now.s += 60
    assert replica.state(now()) is State.UNKNOWN


def test_a_replica_that_starts_again_in_its_place_is_not_ready(heard, now):
    replica = heard(ratio=0.9)
    now.s += 10
    replica.endpoint = Endpoint("127.0.0.1:8001", ready=False)
    replica.failed(PollResult.UNREACHABLE, "refused")
    assert replica.state(now()) is State.NOT_READY
