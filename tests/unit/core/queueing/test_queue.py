"""A model's queue: batch groups and their totals."""

from __future__ import annotations

import pytest

from batcher.core.events import RequestArrived
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.request import LiveRequest
from batcher.testing.invariants import validate_queue


def request(request_id, *, key="", rows=1, nbytes=0, arrival_ns=0):
    return LiveRequest(
        RequestArrived(request_id, "m", rows, nbytes, (), key, arrival_ns), None, None
    )


@pytest.fixture
def queue():
    queue = ModelQueue()
    yield queue
    validate_queue(queue)


def test_a_batch_group_keeps_the_order_of_arrival(queue):
    requests = [request(i) for i in (3, 1, 2)]
    for each in requests:
        queue.add(each)

    (group,) = queue.groups.values()
    assert list(group) == requests
    assert group.head is requests[0]


def test_totals_follow_additions_and_removals(queue):
    first, second = request(1, rows=2, nbytes=10), request(2, rows=3, nbytes=20, key="other")
    queue.add(first)
    queue.add(second)
    assert (queue.requests, queue.rows, queue.nbytes) == (2, 5, 30)

    queue.discard(first)
    assert (queue.requests, queue.rows, queue.nbytes) == (1, 3, 20)


def test_a_request_can_be_removed_from_any_place(queue):
    requests = [request(i) for i in range(5)]
    for each in requests:
        queue.add(each)
    for i in (2, 0, 4):
        queue.discard(requests[i])

    assert list(queue) == [requests[1], requests[3]]


def test_a_batch_group_is_dropped_with_its_last_request(queue):
    only = request(1)
    queue.add(only)
    queue.discard(only)

    assert queue.groups == {}


def test_the_oldest_arrival_is_that_of_the_oldest_head(queue):
    assert queue.oldest_arrival_ns() is None
    queue.add(request(1, key="a", arrival_ns=7))
    queue.add(request(2, key="b", arrival_ns=5))

    assert queue.oldest_arrival_ns() == 5


def test_a_request_shows_where_it_is():
    one = request(1, rows=2)
    assert repr(one) == "<request 1 of m, 2 rows, waiting>"
    one.batch_id = 7
    assert repr(one) == "<request 1 of m, 2 rows, in batch 7>"
