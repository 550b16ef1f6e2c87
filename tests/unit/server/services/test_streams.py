"""What the requests of a stream hold, over either transport."""

import asyncio

import pytest

from batcher.buffers import Buffers
from batcher.server.services.streams import (
    REQUEST_BYTES,
    REQUESTS_AT_ONCE,
    REQUESTS_PER_ITERATION,
    StreamCharges,
    StreamPacer,
)

LIMIT = 10_000
REQUEST, ANSWER = bytes(500), bytes(700)


class Written:
    """A context that notes what is charged while an answer is written."""

    def __init__(self, buffers):
        self.buffers = buffers
        self.used = None

    async def write(self, _):
        self.used = self.buffers.used


@pytest.mark.parametrize("transport_charges", [True, False])
async def test_a_small_request_counts_for_what_it_takes_until_its_answer_is_written(
    transport_charges,
):
    buffers = Buffers(LIMIT)
    charges, context = StreamCharges(buffers, transport_charges=transport_charges), Written(buffers)
    assert charges.charge_request(REQUEST)
    assert buffers.used == REQUEST_BYTES + len(REQUEST)
    assert charges.answered(ANSWER, len(REQUEST)) == ANSWER
    assert buffers.used == REQUEST_BYTES + len(ANSWER)
    await charges.written(ANSWER, context)
    assert context.used == (0 if transport_charges else REQUEST_BYTES + len(ANSWER))
    assert buffers.used == 0


async def test_what_found_no_room_is_charged_and_released_as_well():
    buffers = Buffers(LIMIT)
    charges = StreamCharges(buffers, transport_charges=True)
    assert buffers.reserve(LIMIT - REQUEST_BYTES)
    assert not charges.charge_request(REQUEST)
    answer = charges.answered(charges.refused(REQUEST), 0)
    assert b"server.max_buffered" in answer
    await charges.written(answer, Written(buffers))
    assert buffers.used == LIMIT - REQUEST_BYTES
    assert buffers.refused == 2  # the request, and its answer


def test_the_end_of_a_stream_releases_all():
    buffers = Buffers(LIMIT)
    charges = StreamCharges(buffers, transport_charges=True)
    assert charges.charge_request(REQUEST)
    assert charges.charge_request(REQUEST)
    charges.answered(ANSWER, len(REQUEST))
    charges.release()
    assert buffers.used == 0


class TestStreamPacer:
    async def test_a_bounded_number_begins_in_one_iteration_of_the_event_loop(self):
        pacer, began = StreamPacer(), []

        async def begin(number):
            await pacer.may_begin()
            began.append(number)

        most = REQUESTS_PER_ITERATION // REQUESTS_AT_ONCE
        count = 3 * most + 1
        tasks = [asyncio.create_task(begin(number)) for number in range(count)]
        while len(began) < count:
            before = len(began)
            await asyncio.sleep(0)
            assert len(began) - before <= most
        assert began == list(range(count))
        await asyncio.gather(*tasks)

    async def test_a_cancelled_stream_does_not_use_a_place(self):
        pacer = StreamPacer()
        for _ in range(REQUESTS_PER_ITERATION):
            await pacer.may_begin()
        cancelled = [asyncio.create_task(pacer.may_begin()) for _ in range(REQUESTS_PER_ITERATION)]
        last = asyncio.create_task(pacer.may_begin())
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.wait_for(last, 10)
