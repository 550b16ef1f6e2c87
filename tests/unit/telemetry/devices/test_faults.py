"""When a GPU has failed, and when it has not any more."""

import pytest

from batcher.clock import SECOND
from batcher.telemetry.devices.faults import FATAL, HOLD_NS, RESETS, Faults
from batcher.telemetry.devices.statistics import FailureCause

LOST, RESET, XID, ECC = FailureCause


class Play:
    """Faults under a manual clock in seconds."""

    def __init__(self):
        self.faults, self.now_s = Faults(), 0

    def good(self, seconds=1, uncorrected=0, action=0):
        self.now_s += seconds
        self.faults.read(uncorrected, action, self.now_s * SECOND)
        return set(self.faults.failures)

    def lost(self, *, reset=False):
        self.now_s += 1
        self.faults.lost(self.now_s * SECOND, reset=reset)
        return set(self.faults.failures)

    def xid(self, code):
        self.faults.xid(code, self.now_s * SECOND)
        return set(self.faults.failures)


@pytest.fixture
def play():
    return Play()


def test_one_reading_that_says_lost_may_be_a_mistake(play):
    assert play.lost() == set()
    assert play.good() == set()
    assert play.lost() == set()
    assert play.lost() == {LOST}


def test_a_lost_gpu_that_is_back_is_used_after_a_while(play):
    play.lost()
    play.lost()
    assert play.good() == {LOST}
    assert play.good(8) == {LOST}
    assert play.good() == set()


def test_being_lost_again_begins_anew(play):
    play.lost()
    play.lost()
    play.good(9)
    play.lost()
    assert play.lost() == {LOST}
    assert play.good(9) == {LOST}
    assert play.good() == set()


def test_one_that_has_to_be_reset(play):
    assert play.lost(reset=True) == set()
    assert play.lost(reset=True) == {RESET}
    assert play.good(action=0) == set(), "the driver asks for nothing any more"


def test_one_that_has_to_be_reset_and_cannot_say_so(play):
    play.lost(reset=True)
    play.lost(reset=True)
    assert play.good(action=None) == {RESET}
    assert play.good(9, action=None) == set()


@pytest.mark.parametrize("action", RESETS)
def test_what_the_driver_asks_for(play, action):
    assert play.good(action=action) == {RESET}
    assert play.good(100, action=action) == {RESET}
    assert play.good(action=None) == {RESET}, "one reading without it"
    assert play.good(action=0) == set()


@pytest.mark.parametrize("action", [3, 4, 5, 99])
def test_what_leaves_a_gpu_in_use(play, action):
    assert play.good(action=action) == set()


@pytest.mark.parametrize("code", [8, 13, 31, 32, 43, 45, 63, 68, 69, 74, 92, 94, 109, 154, 0, 9999])
def test_errors_that_a_program_causes_are_no_failure(play, code):
    assert play.xid(code) == set()


@pytest.mark.parametrize("code", FATAL)
def test_an_error_after_which_a_gpu_is_reset(play, code):
    assert play.xid(code) == {XID}
    assert f"(XID {code})" in play.faults.failures[XID]
    assert play.good(1) == {XID}, "the driver may not have said yet what has to be done"
    assert play.good(9) == set(), "nothing has to be done"


def test_it_stands_while_the_driver_asks_for_a_reset(play):
    play.xid(119)
    assert play.good(20, action=1) == {XID, RESET}
    assert play.good(20, action=0) == set()


def test_it_stands_with_a_driver_that_does_not_say(play):
    play.xid(119)
    assert play.good(1000, action=None) == {XID}


def test_it_ends_when_the_gpu_was_lost_and_is_back(play):
    play.xid(119)
    play.xid(79)
    assert play.good(5, action=None) == {XID, LOST}
    assert play.good(5, action=None) == set()


def test_one_that_has_fallen_off_the_bus(play):
    assert play.xid(79) == {LOST}


def test_more_memory_errors_than_before(play):
    assert play.good(uncorrected=7) == set(), "those before the server are no news"
    assert play.good(uncorrected=8) == {ECC}
    assert "1 memory error could" in play.faults.failures[ECC]
    assert play.good(10, uncorrected=8) == set()
    assert play.good(uncorrected=8) == set()


def test_memory_errors_with_a_driver_that_does_not_say(play):
    play.good(uncorrected=0, action=None)
    assert play.good(uncorrected=2, action=None) == {ECC}
    assert play.good(1000, uncorrected=2, action=None) == {ECC}
    assert play.good(uncorrected=None, action=None) == {ECC}
    assert play.good(uncorrected=0, action=None) == set(), "the GPU was reset"


def test_a_memory_error_as_an_event(play):
    assert play.xid(48) == {ECC}
    assert play.good(HOLD_NS // SECOND) == set()


def test_failures_are_replaced_and_not_changed(play):
    before = play.faults.failures
    play.xid(79)
    assert before == {}
