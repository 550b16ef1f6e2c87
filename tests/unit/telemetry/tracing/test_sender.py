"""The queue and the thread: what is sent, dropped and given up, and that nothing waits for them."""

import logging
import threading

import pytest

from batcher.telemetry.tracing.sender import BLOCK, SpanSender

WAIT_S = 30


class Collector:
    """An exporter of one span a record; `hold` has it wait until it is aborted."""

    def __init__(self):
        self.blocks = []
        self.problem = ""
        self.error = None
        self.hold = False
        self.began = threading.Event()
        self.aborted = threading.Event()

    def export(self, records):
        self.began.set()
        if self.hold:
            assert self.aborted.wait(WAIT_S)
            return len(records), "aborted"
        if self.error is not None:
            raise self.error
        self.blocks.append(list(records))
        return len(records), self.problem

    def abort(self):
        self.aborted.set()

    def close(self):
        assert self.aborted.is_set()


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.aborted.set()


def one():
    return 1


def test_everything_is_sent_in_order_and_in_blocks(collector):
    sender = SpanSender(collector, 1000, interval_s=WAIT_S)
    for record in range(BLOCK * 2 + 1):
        sender.put(record, one)
    sender.start()
    sender.close(WAIT_S)
    assert [record for block in collector.blocks for record in block] == list(range(BLOCK * 2 + 1))
    assert max(map(len, collector.blocks)) == BLOCK
    assert sender.counts() == {"exported": BLOCK * 2 + 1, "failed": 0, "dropped": 0}


def test_it_is_sent_before_the_queue_is_full(collector):
    sender = SpanSender(collector, 8, interval_s=WAIT_S)
    sender.start()
    for record in range(4):
        sender.put(record, one)
    assert collector.began.wait(WAIT_S)
    sender.close(WAIT_S)
    assert sender.exported == 4


def test_a_collector_that_hangs_costs_spans_and_nothing_else(collector, caplog):
    collector.hold = True
    sender = SpanSender(collector, 20, interval_s=0.001)
    sender.start()
    sender.put(0, one)
    assert collector.began.wait(WAIT_S)
    for record in range(100):
        sender.put(record, lambda: 7)
    assert sender.waiting == 20
    assert sender.dropped == 80 * 7
    sender.close(0.001)
    assert collector.aborted.is_set()
    assert not sender._thread.is_alive()
    assert sender.waiting == 0
    assert "has not taken all spans within 0.001 s" in caplog.text


def test_what_comes_after_the_end_is_dropped(collector):
    sender = SpanSender(collector, 20)
    sender.start()
    sender.close(WAIT_S)
    sender.put(1, lambda: 3)
    assert sender.counts() == {"exported": 0, "failed": 0, "dropped": 3}


def test_it_may_be_closed_without_a_start(collector):
    sender = SpanSender(collector, 20)
    sender.put(1, one)
    sender.close(WAIT_S)
    assert collector.aborted.is_set()


def test_an_outage_is_logged_once_and_its_end_too(collector, caplog):
    caplog.set_level(logging.INFO, "batcher.telemetry.tracing")
    sender = SpanSender(collector, 20)
    for problem, error in (("down", None), ("down", None), ("", OSError("broken")), ("", None)):
        collector.problem, collector.error = problem, error
        sender.put(1, one)
        sender._send()
    assert [record.getMessage() for record in caplog.records] == [
        "spans cannot be sent, and are lost until that works again: down",
        "spans are sent again; 3 were lost so far",
    ]
    assert sender.counts() == {"exported": 1, "failed": 3, "dropped": 0}
