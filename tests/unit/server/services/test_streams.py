"""What the requests of a stream hold, over either transport."""

import asyncio

import pytest

from batcher.buffers import Buffers
from batcher.server.services.streams import (
    REQUEST_BYTES,
    REQUESTS_A_TURN,
    REQUESTS_AT_ONCE,
    StreamCharges,
    Turns,
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
    assert charges.taken(REQUEST)
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
    assert not charges.taken(REQUEST)
    answer = charges.answered(charges.refused(REQUEST), 0)
    assert b"server.max_buffered" in answer
    await charges.written(answer, Written(buffers))
    assert buffers.used == LIMIT - REQUEST_BYTES
    assert buffers.refused == 2  # the request, and its answer


def test_the_end_of_a_stream_releases_all():
    buffers = Buffers(LIMIT)
    charges = StreamCharges(buffers, transport_charges=True)
    assert charges.taken(REQUEST)
    assert charges.taken(REQUEST)
    charges.answered(ANSWER, len(REQUEST))
    charges.release()
    assert buffers.used == 0


class TestTurns:
    async def test_so_many_requests_begin_in_one_turn_of_the_loop(self):
        turns, began = Turns(), []

        async def begin(number):
            await turns.taken()
            began.append(number)

        most = REQUESTS_A_TURN // REQUESTS_AT_ONCE
        count = 3 * most + 1
        tasks = [asyncio.create_task(begin(number)) for number in range(count)]
        while len(began) < count:
            before = len(began)
            await asyncio.sleep(0)
            assert len(began) - before <= most
        assert began == list(range(count))
        await asyncio.gather(*tasks)

    async def test_a_stream_that_gives_up_does_not_use_a_turn(self):
        turns = Turns()
        for _ in range(REQUESTS_A_TURN):
            await turns.taken()
        gone = [asyncio.create_task(turns.taken()) for _ in range(REQUESTS_A_TURN)]
        last = asyncio.create_task(turns.taken())
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.wait_for(last, 10)
