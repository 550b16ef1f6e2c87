"""What calls keep in memory is charged once and released, however they end."""

import asyncio
import gzip

import grpc
import pytest
from grpc import aio
from raw_http2 import (
    EXHAUSTED,
    LIMIT,
    MAX_MESSAGE,
    BlockedHandler,
    all_closed,
    echo,
    prefixed,
    refusal,
    soon,
    unary,
    until,
)

from batcher.clock import SECOND
from batcher.http2.call_messages import MESSAGE_BYTES
from batcher.http2.sansio.frames import END_STREAM, PADDED, Frame, Setting, frame
from batcher.http2.server_connection import CALL_BYTES

LARGE = 190_000
"""Bytes: more than a stream's first window allows."""


async def test_a_request_is_charged_until_it_is_answered(bounded, raw, empty):
    blocked = BlockedHandler()
    server, address = await bounded(Hold=unary(blocked))
    client = await raw(address)
    client.open(1, "Hold")
    client.send(1, bytes(1000))
    await soon(blocked.entered)
    assert CALL_BYTES + 1000 < server.buffers.used < CALL_BYTES + 2000
    blocked.release.set()
    await client.answer(1)
    await empty(server)


async def test_the_window_of_a_large_message_is_charged_before_it_comes(bounded, raw, empty):
    server, address = await bounded(Echo=unary(echo))
    client = await raw(address)
    client.open(1, "Echo")
    client.write(frame(Frame.DATA, 0, 1, prefixed(bytes(LARGE))[:1000]))
    await client.until(Frame.WINDOW_UPDATE, 1)
    assert server.buffers.used > LARGE
    client.reset(1)
    await client.ping()
    await empty(server)


async def test_windows_wait_for_room_and_small_requests_go_on(bounded, raw, empty):
    server, address = await bounded(Echo=unary(echo))
    greedy = [await raw(address) for _ in range(5)]
    for client in greedy:
        for number in (1, 3):
            client.open(number, "Echo")
            client.write(frame(Frame.DATA, 0, number, prefixed(bytes(LARGE))[:1000]))
        await client.ping()
    assert server.buffers.used < LIMIT * 3 / 4 + 50_000
    small = await raw(address)
    small.open(1, "Echo")
    small.send(1, bytes(50_000))
    assert len((await small.answer(1))[1]) == 50_005
    greedy[0].writer.transport.abort()
    await until(lambda: len(server.connections) == 5)
    # The one that waited first has its window now.
    for client in greedy[1:4]:
        await client.until(Frame.WINDOW_UPDATE, 1)
    for client in greedy:
        client.writer.transport.abort()
    await until(lambda: len(server.connections) == 1)
    await empty(server)


async def test_a_window_that_finds_no_room_in_time_is_refused(bounded, raw, empty):
    server, address = await bounded(Echo=unary(echo))
    client = await raw(address)
    assert server.buffers.reserve(LIMIT * 3 // 4)
    client.open(1, "Echo")
    client.write(frame(Frame.DATA, 0, 1, prefixed(bytes(LARGE))[:1000]))
    await client.ping()
    for _ in range(20):
        assert server.buffers.refused == 0
        server.sweep(SECOND)
    fields, _ = await client.answer(1)
    assert fields["grpc-status"] == EXHAUSTED
    assert "server.max_buffered" in fields["grpc-message"]
    assert int(fields["grpc-retry-pushback-ms"]) > 0
    assert server.buffers.refused == 1
    server.buffers.release(LIMIT * 3 // 4)
    await empty(server)


async def test_large_messages_that_wait_for_room_are_all_served(bounded, dial, empty):
    server, address = await bounded(6 * LIMIT, Echo=unary(echo))  # the first windows fit
    channel = await dial(address)
    calls = [channel.unary_unary("/s/Echo")(bytes(LARGE)) for _ in range(30)]
    answers = await asyncio.gather(*calls)
    assert {len(answer) for answer in answers} == {LARGE}
    assert await empty(server) <= 6 * LIMIT


async def test_small_requests_beyond_the_bound_are_refused(bounded, raw, empty):
    blocked = BlockedHandler()
    server, address = await bounded(100_000, Hold=unary(blocked), Echo=unary(echo))
    client = await raw(address)
    client.window_update(0, 2**20)
    for number in range(1, 21, 2):
        client.open(number, "Hold")
        client.send(number, bytes(15_000))
    refused = 0
    for number in range(1, 21, 2):
        if number > 9:
            fields, _ = await client.answer(number)
            assert fields["grpc-status"] == EXHAUSTED
            refused += 1
    assert server.buffers.refused == refused == 5
    assert server.buffers.peak <= 100_000
    blocked.release.set()
    await client.answer(1)
    await empty(server)


async def test_answers_that_are_not_read_are_charged_and_bounded(bounded, raw, empty):
    async def large(request, context):
        return bytes(30_000)

    server, address = await bounded(100_000, Large=unary(large))
    client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 0))
    for number in range(1, 11, 2):
        client.open(number, "Large")
        client.send(number, b"")
    await client.ping()
    await until(lambda: server.buffers.refused)
    assert server.buffers.peak <= 100_000 + 30_000
    for number in range(1, 11, 2):
        client.reset(number)
    await client.ping()
    await empty(server)


async def test_large_answers_beyond_the_bound_are_refused(bounded, dial, empty):
    async def large(request, context):
        return bytes(MAX_MESSAGE)

    server, address = await bounded(MAX_MESSAGE, Large=unary(large))
    channel = await dial(address)
    error = await refusal(channel.unary_unary("/s/Large")(b""))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "server.max_buffered" in error.details()
    await empty(server)


class TestDecompression:
    async def test_the_decompressed_message_is_charged(self, bounded, raw, empty):
        blocked = BlockedHandler()
        server, address = await bounded(Hold=unary(blocked))
        client = await raw(address)
        client.open(1, "Hold", ("grpc-encoding", "gzip"))
        small = gzip.compress(bytes(LARGE))
        client.write(frame(Frame.DATA, END_STREAM, 1, prefixed(small, b"\1")))
        await soon(blocked.entered)
        assert LARGE < server.buffers.used < LARGE + 2 * CALL_BYTES
        client.window_update(0, 2**20)
        client.window_update(1, 2**20)
        blocked.release.set()
        await client.answer(1)
        await empty(server)

    @pytest.mark.parametrize("kind", ["unary", "stream"])
    async def test_a_result_without_room_is_refused(self, bounded, raw, empty, kind):
        async def count(requests, context):
            return str(len([each async for each in requests])).encode()

        server, address = await bounded(
            100_000, unary=unary(echo), stream=grpc.stream_unary_rpc_method_handler(count)
        )
        client = await raw(address)
        client.open(1, kind, ("grpc-encoding", "gzip"))
        small = gzip.compress(bytes(LARGE))
        client.write(frame(Frame.DATA, END_STREAM, 1, prefixed(small, b"\1")))
        fields, _ = await client.answer(1)
        assert fields["grpc-status"] == EXHAUSTED
        assert "server.max_buffered" in fields["grpc-message"]
        await empty(server)

    async def test_a_call_that_is_cancelled_meanwhile(self, bounded, raw, empty):
        server, address = await bounded(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo", ("grpc-encoding", "gzip"))
        small = gzip.compress(bytes(LARGE))
        client.write(frame(Frame.DATA, END_STREAM, 1, prefixed(small, b"\1")))
        client.reset(1)
        await client.ping()
        await empty(server)


class TestMessagesOfAStream:
    @pytest.fixture
    async def reader(self, bounded, raw):
        """A server whose method reads one message, and a client: `server, client, handler`."""
        blocked = BlockedHandler()

        async def read(requests, context):
            first = await blocked(await context.read(), context)
            while await context.read() is not aio.EOF:
                pass
            return first

        server, address = await bounded(Read=grpc.stream_unary_rpc_method_handler(read))
        client = await raw(address)
        client.open(1, "Read")
        return server, client, blocked

    async def test_each_counts_for_more_than_its_bytes(self, reader, empty):
        server, client, blocked = reader
        client.write(frame(Frame.DATA, 0, 1, prefixed(b"") * 1001))
        await soon(blocked.entered)
        await client.ping()
        assert server.buffers.used >= 1000 * MESSAGE_BYTES
        client.write(frame(Frame.DATA, END_STREAM, 1))
        blocked.release.set()
        assert (await client.answer(1))[0]["grpc-status"] == "0"
        await empty(server)

    async def test_messages_without_room_end_the_call(self, reader, empty):
        server, client, _ = reader
        for _ in range(8):
            client.write(frame(Frame.DATA, 0, 1, prefixed(b"") * 1000))
        fields, _ = await client.answer(1)
        assert fields["grpc-status"] == EXHAUSTED
        assert "server.max_buffered" in fields["grpc-message"]
        assert await empty(server) <= LIMIT


async def test_a_lost_connection_releases_everything(bounded, raw, empty):
    blocked, reading = BlockedHandler(), BlockedHandler()

    async def read(requests, context):
        return await reading(await context.read(), context)

    server, address = await bounded(
        Hold=unary(blocked), Read=grpc.stream_unary_rpc_method_handler(read), Echo=unary(echo)
    )
    client = await raw(address)
    client.open(1, "Hold")
    client.send(1, bytes(1000))
    client.open(3, "Read")
    client.send(3, b"", bytes(1000), flags=0)
    for number in (5, 7):
        client.open(number, "Echo")
        client.write(frame(Frame.DATA, 0, number, prefixed(bytes(LARGE))[:1000]))
    await soon(blocked.entered)
    await soon(reading.entered)
    assert server.buffers.used > LARGE
    client.writer.transport.abort()
    await all_closed(server)
    await empty(server)


async def test_bytes_that_came_while_the_window_waited_are_charged_once(bounded, raw, empty):
    blocked = BlockedHandler()
    server, address = await bounded(Hold=unary(blocked))
    room = LIMIT * 3 // 4
    assert server.buffers.reserve(room)
    client = await raw(address)
    client.open(1, "Hold")
    body = prefixed(bytes(LARGE))
    for start in range(0, 2**17, 2**14):  # all that the first window takes
        client.write(frame(Frame.DATA, 0, 1, body[start : start + 2**14]))
        await client.ping()
    server.buffers.release(room)
    await client.until(Frame.WINDOW_UPDATE, 1)
    assert len(body) < server.buffers.used < len(body) + 2 * CALL_BYTES
    for start in range(2**17, len(body), 2**14):
        last = END_STREAM if start + 2**14 >= len(body) else 0
        client.write(frame(Frame.DATA, last, 1, body[start : start + 2**14]))
    await soon(blocked.entered)
    assert len(body) < server.buffers.used < len(body) + 2 * CALL_BYTES
    client.reset(1)
    await client.ping()
    await empty(server)


@pytest.mark.parametrize("missing", [20, 300])
async def test_padding_that_uses_up_a_window_does_not_avoid_the_timeout(
    bounded, raw, empty, missing
):
    server, address = await bounded(Echo=unary(echo))
    client = await raw(address)
    client.open(1, "Echo")
    body = prefixed(bytes(2**17 - 5))
    for start in range(0, len(body) - missing, 2**14):
        client.write(frame(Frame.DATA, 0, 1, body[start : min(start + 2**14, len(body) - missing)]))
        await client.ping()  # what comes at once is expected at once
    left = missing
    while left:
        size = min(left, 256)
        client.write(frame(Frame.DATA, PADDED, 1, bytes([size - 1]) + bytes(size - 1)))
        left -= size
    await client.ping()
    for _ in range(20):
        server.sweep(SECOND)
    fields, _ = await client.answer(1)
    assert fields["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    await empty(server)
