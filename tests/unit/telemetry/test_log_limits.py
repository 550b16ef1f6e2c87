"""A flood of records costs a few lines, which say how many there were."""

import io
import json
import logging
import threading
import weakref

import pytest

from batcher.clock import SECOND
from batcher.telemetry.log_limits import (
    BURST,
    INTERVAL_NS,
    LONGEST,
    MAX_KINDS,
    OWN_LIMITS,
    PRINTED,
    PRINTED_BURST,
    QUIET_NS,
    TRACEBACKS,
    LogLimiter,
)
from batcher.telemetry.logs import JsonFormatter, LimitedHandler
from batcher.testing import ManualClock


class Timer:
    """Stands for `threading.Timer`; the test says when its time is over."""

    def __init__(self, wait_s, call):
        self.wait_s, self.call, self.cancelled = wait_s, call, False

    def start(self):
        self.started = True

    def cancel(self):
        self.cancelled = True


class Log:
    """A logger behind a limiter, on a manual clock."""

    def __init__(self):
        self.clock = ManualClock(1)
        self.timers = []
        self.written = []
        self.limiter = LogLimiter(self.written.append, self.clock, self._timer)

    def _timer(self, wait_s, call):
        self.timers.append(Timer(wait_s, call))
        return self.timers[-1]

    def __call__(self, message="%s failed", *args, name="batcher.x", error=None, level=30):
        info = (type(error), error, error.__traceback__) if error is not None else None
        record = logging.LogRecord(name, level, __file__, 1, message, args, info)
        if self.limiter.filter(record):
            self.written.append(record)
        return record

    def time_passes(self, ns=INTERVAL_NS):
        self.clock.advance(ns)
        timer = self.timers.pop()
        assert not self.timers
        timer.call()

    def stood_for(self):
        """How many records those that were written stand for."""
        return sum(1 + getattr(record, "more_like_it", 0) for record in self.written)


@pytest.fixture
def log():
    return Log()


def fail(text):
    raise ValueError(text)


def fail_elsewhere(text):
    raise ValueError(text)


def raised(text="no", by=fail):
    with pytest.raises(ValueError) as caught:
        by(text)
    return caught.value


def test_a_burst_then_one_each_interval_and_nothing_is_lost(log):
    for number in range(BURST + 37):
        log("%s failed", number)
    assert len(log.written) == BURST
    assert log.timers[0].wait_s == INTERVAL_NS / SECOND
    log.time_passes()
    assert log.written[-1].getMessage() == f"{BURST + 36} failed"
    assert log.written[-1].more_like_it == 36
    for number in range(5):
        log("%s failed", number)
    log.time_passes()
    assert (len(log.written), log.written[-1].more_like_it) == (BURST + 2, 4)
    assert log.stood_for() == BURST + 42
    assert not log.timers


def test_one_left_out_is_logged_later_as_it_is(log):
    for number in range(BURST + 1):
        log("%s failed", number)
    log.time_passes()
    assert not hasattr(log.written[-1], "more_like_it")
    assert log.written[-1].getMessage() == f"{BURST} failed"


def test_a_record_that_comes_when_the_time_is_over_stands_for_those_before(log):
    for number in range(BURST + 3):
        log("%s failed", number)
    log.clock.advance(INTERVAL_NS)
    assert log("%s failed", "late").more_like_it == 3
    log.timers.pop().call()
    assert log.stood_for() == BURST + 4


def test_after_a_quiet_minute_there_is_a_burst_again(log):
    for _ in range(BURST):
        log("a")
    log.clock.advance(QUIET_NS)
    for _ in range(BURST):
        log("a")
    assert len(log.written) == 2 * BURST


def test_kinds_are_logger_level_and_template(log):
    for _ in range(BURST + 1):
        log("a")
    before = len(log.written)
    log("b")
    log("a", name="batcher.y")
    log("a", level=40)
    assert len(log.written) == before + 3


def test_errors_of_one_origin_are_one_kind_whatever_they_say(log):
    for number in range(TRACEBACKS + 5):
        log(f"request {number} failed", error=raised(f"error {number}"))
    assert len(log.written) == TRACEBACKS
    assert all(record.exc_info for record in log.written)
    log("request failed", error=raised(by=fail_elsewhere))
    assert len(log.written) == TRACEBACKS + 1
    log.time_passes()
    last = log.written[-1]
    assert (last.more_like_it, last.exc_info) == (4, None)
    assert last.error == f"ValueError: error {TRACEBACKS + 4}"
    assert last.getMessage() == f"request {TRACEBACKS + 4} failed"


def test_what_is_held_keeps_no_argument_and_no_frame_alive(log):
    class Tensor:
        def __str__(self):
            return "x" * 2 * LONGEST

    for _ in range(BURST):
        log("%s")
    tensor = Tensor()
    gone = weakref.ref(tensor)
    log("%s", tensor)
    del tensor
    assert gone() is None
    log.time_passes()
    assert log.written[-1].getMessage() == "x" * LONGEST


def test_kinds_are_bounded_and_what_a_forgotten_one_holds_is_said(log):
    for _ in range(BURST + 2):
        log("first")
    for number in range(10 * MAX_KINDS):
        log(f"kind {number}")
    assert len(log.limiter._kinds) == MAX_KINDS
    assert log.stood_for() == BURST + 2 + 10 * MAX_KINDS
    assert not log.limiter._holding


def test_close_says_what_is_held_and_limits_nothing_after(log):
    for _ in range(BURST + 3):
        log("a")
    log.limiter.close()
    assert log.stood_for() == BURST + 3
    assert log.timers.pop().cancelled
    log("a")
    assert log.stood_for() == BURST + 4


def test_what_children_write_has_a_limit_of_its_own(log):
    (name,) = OWN_LIMITS
    for _ in range(3 * BURST):
        log("a", name=name)
    assert len(log.written) == 3 * BURST
    for _ in range(PRINTED_BURST + 1):
        log("a", name=PRINTED)
    assert len(log.written) == 3 * BURST + PRINTED_BURST
    assert log.timers[0].wait_s == 0.05


def test_names_of_loggers_are_those_of_the_code():
    from batcher.executors.python import printing
    from batcher.runtime.instances import children

    assert {children.log.name} == OWN_LIMITS
    assert printing.log.name == PRINTED


@pytest.mark.parametrize("message", ["%d of %d", RuntimeError("x"), None, 7])
def test_odd_records_raise_nothing(log, message):
    for _ in range(BURST + 1):
        log(message, "no number")
    log.time_passes()
    assert len(log.written) == BURST + 1


def test_a_text_that_logs_while_it_is_made_does_not_hang(log):
    class Chatty:
        def __str__(self):
            log("I was asked")
            return "chatty"

    for _ in range(BURST + 1):
        log("%s", Chatty())
    assert [record.msg for record in log.written].count("I was asked") == 1


def test_no_thread_to_be_had_is_no_error(log):
    def fails(wait_s, call):
        timer = Timer(wait_s, call)
        timer.start = lambda: (_ for _ in ()).throw(RuntimeError("can't start new thread"))
        return timer

    log.limiter._new_timer = fails
    for _ in range(BURST + 2):
        log("a")
    log.limiter.close()
    assert log.stood_for() == BURST + 2


def test_many_threads_lose_nothing():
    stream = io.StringIO()
    handler = LimitedHandler(stream)
    handler.setFormatter(JsonFormatter())

    def flood():
        for number in range(2000):
            handler.handle(logging.makeLogRecord({"msg": "%s failed", "args": (number,)}))

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(1 + line.get("more_like_it", 0) for line in lines) == 8000
    assert BURST <= len(lines) <= BURST + 20
