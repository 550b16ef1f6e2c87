"""However a call ends, no object of it waits for the garbage collector."""

import asyncio
import gc
import gzip
from collections import Counter

import grpc
import pytest
from raw_http2 import MAX_MESSAGE, echo, unary, until

from batcher.buffers import Buffers
from batcher.clock import SECOND
from batcher.http2.sansio.frames import END_STREAM, Frame, Setting, frame

TIMES = 5
CODES = ("f_code", "cr_code", "ag_code")


def prefixed(body, compressed=b"\0"):
    return compressed + len(body).to_bytes(4, "big") + body


def name_of(found):
    """The kind of an object of this project (an instance, a frame, a coroutine), or None."""
    kind = type(found)
    if kind.__module__.startswith("batcher.http2"):
        return kind.__qualname__
    code = next((getattr(found, each) for each in CODES if hasattr(found, each)), None)
    return code.co_qualname if code is not None and "/batcher/http2/" in code.co_filename else None


@pytest.fixture
def garbage():
    """A function that returns what the collector finds of this project in every one of some plays."""

    def found():
        gc.collect()
        ours = Counter(filter(None, map(name_of, gc.garbage)))
        gc.garbage.clear()
        # A single object may be left of the test before.
        return {name: count for name, count in ours.items() if count >= TIMES - 1}

    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.disable()
    yield found
    gc.enable()
    gc.set_debug(0)
    gc.garbage.clear()


async def answered(client, number, server):
    client.open(number, "Echo")
    client.send(number, b"x")
    await client.answer(number)


async def with_a_window(client, number, server):
    client.open(number, "Echo")
    client.send(number, bytes(1000))
    await client.until(Frame.DATA, number)
    client.window_update(number, 2000)
    await client.answer(number)


async def unread(client, number, server):
    client.open(number, "Echo")
    client.send(number, bytes(1000))
    await client.until(Frame.DATA, number)
    server.sweep(60 * SECOND)
    await client.answer(number)


async def not_coming(client, number, server):
    client.open(number, "Echo")
    client.write(frame(Frame.DATA, 0, number, prefixed(bytes(1000))[:500]))
    await client.ping()
    server.sweep(60 * SECOND)
    await client.answer(number)


async def expired(client, number, server):
    client.open(number, "Hold", ("grpc-timeout", "2m"))
    client.send(number, b"x")
    await client.answer(number)


async def expired_in_a_stream(client, number, server):
    client.open(number, "Read", ("grpc-timeout", "2m"))
    client.send(number, b"x", flags=0)
    await client.answer(number)


async def expired_before_it_came(client, number, server):
    client.open(number, "Echo", ("grpc-timeout", "2m"))
    await client.answer(number)


async def reset(client, number, server):
    client.open(number, "Hold")
    client.send(number, b"x")
    await client.ping()
    client.reset(number)


async def reset_at_once(client, number, server):
    client.open(number, "Hold")
    client.send(number, b"x")
    client.reset(number)


async def reset_while_it_is_read(client, number, server):
    client.open(number, "Read")
    client.send(number, b"x", b"y", flags=0)
    await client.ping()
    client.reset(number)


async def reset_in_its_message(client, number, server):
    client.open(number, "Echo")
    client.write(frame(Frame.DATA, 0, number, prefixed(bytes(190_000))[:5000]))
    await client.ping()
    client.reset(number)


async def reset_while_it_writes(client, number, server):
    client.open(number, "Write")
    client.send(number, b"")
    await client.until(Frame.DATA, number)
    client.reset(number)


async def reset_while_it_is_inflated(client, number, server):
    client.open(number, "Echo", ("grpc-encoding", "gzip"))
    body = prefixed(gzip.compress(bytes(190_000)), b"\1")
    client.write(frame(Frame.DATA, END_STREAM, number, body))
    client.reset(number)


async def not_inflated(client, number, server):
    for at, name in enumerate(("Echo", "Read")):
        client.open(number + 2 * at, name, ("grpc-encoding", "gzip"))
        client.write(frame(Frame.DATA, END_STREAM, number + 2 * at, prefixed(b"bad", b"\1")))
        await client.answer(number + 2 * at)


async def too_large(client, number, server):
    client.open(number, "Echo")
    client.write(frame(Frame.DATA, 0, number, b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big")))
    await client.answer(number)


async def too_large_an_answer(client, number, server):
    client.open(number, "Large")
    client.send(number, b"")
    await client.answer(number)


async def malformed(client, number, server):
    client.open(number, "Echo")
    client.write(frame(Frame.DATA, END_STREAM, number, b"\0\0"))
    await client.answer(number)


async def unknown(client, number, server):
    client.open(number, "Unknown")
    await client.answer(number)


async def raising(client, number, server):
    client.open(number, "Raise")
    client.send(number, b"")
    await client.answer(number)


async def aborted(client, number, server):
    client.open(number, "Abort")
    client.send(number, b"")
    await client.answer(number)


async def without_room(client, number, server):
    server.buffers.charge(server.buffers.limit)
    client.open(number, "Echo")
    await client.answer(number)
    server.buffers.release(4000)  # enough for a call, not for its message
    for at, name in enumerate(("Echo", "Read"), 1):
        client.open(number + 2 * at, name)
        client.send(number + 2 * at, bytes(5000))
        await client.answer(number + 2 * at)
    server.buffers.release(server.buffers.limit - 4000)


async def without_a_window(client, number, server):
    room = server.buffers.limit - 50_000
    server.buffers.charge(room)
    client.open(number, "Echo")
    client.write(frame(Frame.DATA, 0, number, prefixed(bytes(190_000))[:500]))
    await client.ping()
    server.sweep(60 * SECOND)
    await client.answer(number)
    server.buffers.release(room)


ENDS = [value for name, value in globals().items() if asyncio.iscoroutinefunction(value)]
ENDS = [end for end in ENDS if end.__module__ == __name__]


@pytest.fixture
async def served(serve):
    async def hold(request, context):
        await asyncio.Event().wait()

    async def read(requests, context):
        async for _ in requests:
            pass
        await asyncio.Event().wait()

    async def write(request, context):
        for _ in range(100):
            await context.write(bytes(1000))

    async def large(request, context):
        return bytes(MAX_MESSAGE + 1)

    async def fail(request, context):
        raise ZeroDivisionError

    async def abort(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing")

    return await serve(
        {"buffers": Buffers(2**20), "max_streams": 100},
        Echo=unary(echo),
        Hold=unary(hold),
        Read=grpc.stream_unary_rpc_method_handler(read),
        Write=grpc.unary_stream_rpc_method_handler(write),
        Large=unary(large),
        Raise=unary(fail),
        Abort=unary(abort),
    )


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_a_call_leaves_no_garbage(served, raw, garbage, end):
    server, address = served
    client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 500))
    await client.ping()
    (server_side,) = server.connections

    async def play(number):
        await end(client, number, server)
        await client.ping()
        await until(lambda: not server_side.calls and server.buffers.used == 0)

    await play(1)
    garbage()
    for at in range(1, TIMES):
        await play(10 * at + 1)
    assert not garbage()


@pytest.mark.parametrize("end", [reset, reset_while_it_is_read, reset_in_its_message])
async def test_a_lost_connection_leaves_no_garbage(served, raw, garbage, end):
    server, address = served

    async def play():
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 500))
        client.reset = lambda _: client.writer.transport.abort()
        await end(client, 1, server)
        await until(lambda: not server.connections and server.buffers.used == 0)

    await play()
    garbage()
    for _ in range(TIMES):
        await play()
    assert not garbage()


async def test_a_stream_with_a_reader_task_leaves_no_garbage(serve, dial, garbage):
    async def apart(_, context):
        reader = asyncio.create_task(context.read())
        try:
            await reader
            await asyncio.Event().wait()
        finally:
            del reader

    server, address = await serve(Apart=grpc.stream_stream_rpc_method_handler(apart))
    channel = await dial(address)

    async def play():
        call = channel.stream_stream("/s/Apart")()
        await call.write(b"x")
        await asyncio.sleep(0)
        call.cancel()
        await until(lambda: not any(client.calls for client in server.connections))

    await play()
    garbage()
    for _ in range(TIMES):
        await play()
    assert not garbage()
