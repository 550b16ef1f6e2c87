import asyncio

import pytest

from batcher.scaler.streams import MAX_STREAMS, Streams
from batcher.scaler.turns import CALLS_PER_ITERATION, Turns


class Listener:
    """One stream, and what it has said."""

    def __init__(self, streams, state):
        self.state = state
        self.heard = []
        self.states = streams.states(lambda: self.state)
        self.task = asyncio.ensure_future(self._listen())

    async def _listen(self):
        async for state in self.states:
            self.heard.append(state)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_state_comes_at_once_and_when_it_changes():
    streams = Streams()
    listener = Listener(streams, True)
    await settle()
    streams.look()
    await settle()
    assert listener.heard == [True]
    listener.state = False
    streams.look()
    await settle()
    assert listener.heard == [True, False]
    streams.close()
    await listener.task


async def test_what_is_not_known_is_not_said():
    streams = Streams()
    listener = Listener(streams, None)
    await settle()
    assert listener.heard == []
    for state in (True, None, True, False):
        listener.state = state
        streams.look()
        await settle()
    assert listener.heard == [True, False]
    streams.close()
    await listener.task


async def test_one_stream_too_many_ends_the_oldest():
    streams = Streams()
    listeners = []
    for _ in range(MAX_STREAMS + 1):
        listeners.append(Listener(streams, True))
        await asyncio.sleep(0)
    await settle()
    assert len(streams) == MAX_STREAMS
    assert [listener.task.done() for listener in listeners[:2]] == [True, False]
    assert listeners[-1].heard == [True]
    streams.close()
    await asyncio.gather(*(listener.task for listener in listeners))


async def test_a_caller_that_leaves_is_forgotten():
    streams = Streams()
    listener = Listener(streams, True)
    await settle()
    listener.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listener.task
    await listener.states.aclose()
    assert len(streams) == 0


async def test_none_begins_after_the_end():
    streams = Streams()
    streams.close()
    listener = Listener(streams, True)
    await listener.task
    assert listener.heard == []


async def test_calls_that_come_at_once_begin_in_turns():
    turns, begun, iterations = Turns(), [], [0]

    def count():
        iterations[0] += 1
        if len(begun) < 1000:
            asyncio.get_running_loop().call_soon(count)

    async def call(number):
        await turns.take()
        begun.append((iterations[0], number))

    asyncio.get_running_loop().call_soon(count)
    await asyncio.gather(*(call(number) for number in range(1000)))
    assert [number for _, number in begun] == list(range(1000)), "first come, first served"
    in_one = [sum(at == iteration for at, _ in begun) for iteration in range(iterations[0] + 1)]
    assert max(in_one) <= CALLS_PER_ITERATION


async def test_a_state_that_cannot_be_read_ends_its_own_stream_alone():
    def defect():
        raise ValueError("a defect")

    streams = Streams()
    broken = streams.states(iter([True, None]).__next__)
    assert await anext(broken) is True
    waiting = asyncio.ensure_future(anext(broken))
    listener = Listener(streams, True)
    await settle()
    next(iter(streams._open.values())).read = defect
    listener.state = False
    streams.look()
    await settle()
    assert listener.heard == [True, False]
    assert waiting.done()
    assert waiting.exception() is not None
    streams.close()
    await listener.task
