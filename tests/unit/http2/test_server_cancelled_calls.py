"""Calls of a real server whose deadline passes, or whose callers cancel, disconnect or open too many."""

import asyncio
import contextlib

import grpc
import pytest
from raw_http2 import WAIT_S, BlockedHandler, all_closed, echo, soon, unary

from batcher.http2.sansio.frames import Error, Frame, Setting, frame


class TestDeadlines:
    async def test_a_handler_is_cancelled_at_the_deadline(self, serve, raw):
        blocked = BlockedHandler()
        _, address = await serve(Hold=unary(blocked))
        client = await raw(address)
        client.open(1, "Hold", ("grpc-timeout", "10m"))
        client.send(1, b"")
        fields, _ = await client.answer(1)
        assert (fields["grpc-status"], fields["grpc-message"]) == ("4", "Deadline Exceeded")
        await soon(blocked.cancelled)

    async def test_a_call_expires_before_its_message_came(self, serve, raw):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo", ("grpc-timeout", "1m"))
        assert (await client.answer(1))[0]["grpc-status"] == "4"
        client.send(1, b"late")
        await client.ping()

    async def test_a_deadline_that_has_passed(self, serve, raw):
        _, address = await serve(Hold=unary(BlockedHandler()))
        client = await raw(address)
        client.open(1, "Hold", ("grpc-timeout", "0n"))
        client.send(1, b"")
        assert (await client.answer(1))[0]["grpc-status"] == "4"

    async def test_a_deadline_beyond_timers(self, serve, raw):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo", ("grpc-timeout", "99999999H"))
        client.send(1, b"x")
        assert (await client.answer(1))[0]["grpc-status"] == "0"

    async def test_an_answer_that_waits_for_a_window_expires(self, serve, raw):
        entered = asyncio.Event()

        async def behave(request, context):
            entered.set()
            yield bytes(100)

        _, address = await serve(Stream=grpc.unary_stream_rpc_method_handler(behave))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 10))
        client.open(1, "Stream", ("grpc-timeout", "20m"))
        client.send(1, b"")
        await soon(entered)
        fields, reset = await client.answer(1)
        assert fields.get("grpc-status", "4") == "4"
        assert reset is not Error.INTERNAL_ERROR

    async def test_a_call_that_expires_after_part_of_its_answer_ends_with_trailers(
        self, serve, raw
    ):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 10))
        client.open(1, "Echo", ("grpc-timeout", "20m"))
        client.send(1, bytes(100))
        (*_, opening) = await client.until(Frame.HEADERS, 1)
        (*_, trailers) = await client.until(Frame.HEADERS, 1)
        assert (":status", "200") in client.decoder.decode(opening)
        assert client.decoder.decode(trailers) == [
            ("grpc-status", "4"),
            ("grpc-message", "Deadline Exceeded"),
        ]


class TestCancelledCalls:
    async def test_the_handler_of_a_cancelled_call_is_cancelled(self, serve, dial):
        blocked = BlockedHandler()
        server, address = await serve(Hold=unary(blocked), Echo=unary(echo))
        channel = await dial(address)
        call = channel.unary_unary("/s/Hold")(b"")
        await soon(blocked.entered)
        call.cancel()
        await soon(blocked.cancelled)
        assert await channel.unary_unary("/s/Echo")(b"x") == b"x"
        assert [client.calls for client in server.connections] == [{}]

    async def test_a_stream_is_cancelled_where_it_waits(self, serve, dial):
        left = asyncio.Queue()

        async def reading(requests, context):
            try:
                async for _ in requests:
                    yield b"x"
            finally:
                left.put_nowait("reading")

        async def writing(request, context):
            try:
                yield b"x"
                await asyncio.Event().wait()
            finally:
                left.put_nowait("writing")

        _, address = await serve(
            Reading=grpc.stream_stream_rpc_method_handler(reading),
            Writing=grpc.unary_stream_rpc_method_handler(writing),
        )
        channel = await dial(address)
        call = channel.stream_stream("/s/Reading")()
        await call.write(b"")
        await call.read()
        call.cancel()
        async with asyncio.timeout(WAIT_S):
            assert await left.get() == "reading"
        call = channel.unary_stream("/s/Writing")(b"")
        await call.read()
        call.cancel()
        async with asyncio.timeout(WAIT_S):
            assert await left.get() == "writing"

    async def test_a_handler_that_waits_for_a_window_is_cancelled(self, serve, raw):
        left = asyncio.Event()

        async def behave(request, context):
            try:
                await context.write(bytes(100))
            finally:
                left.set()

        server, address = await serve(Write=grpc.unary_stream_rpc_method_handler(behave))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 10))
        client.open(1, "Write")
        client.send(1, b"")
        await client.until(Frame.DATA)
        client.reset(1)
        await soon(left)
        assert server.counters.lost_answers == 1

    async def test_a_unary_answer_that_is_cancelled_counts_as_lost(self, serve, raw):
        server, address = await serve(Echo=unary(echo))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 10))
        client.open(1, "Echo")
        client.send(1, bytes(100))
        await client.until(Frame.DATA)
        assert server.counters.lost_answers == 0
        client.reset(1)
        await client.ping()
        await asyncio.sleep(0)
        assert server.counters.lost_answers == 1

    async def test_the_handlers_of_a_lost_connection_are_cancelled(self, serve, raw):
        blocked, reading = BlockedHandler(), BlockedHandler()

        async def read(requests, context):
            return await reading(await context.read(), context)

        server, address = await serve(
            Hold=unary(blocked), Read=grpc.stream_unary_rpc_method_handler(read), Echo=unary(echo)
        )
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"")
        client.open(3, "Read")
        client.send(3, b"", flags=0)
        client.open(5, "Echo")
        await soon(blocked.entered)
        await soon(reading.entered)
        client.writer.transport.abort()
        await soon(blocked.cancelled)
        await soon(reading.cancelled)
        await all_closed(server)

    @pytest.mark.parametrize("streaming", [False, True])
    async def test_a_handler_does_not_begin_for_a_cancelled_call(self, serve, raw, streaming):
        begun = []

        async def behave(request, context):
            begun.append(request)
            return b""

        server, address = await serve(
            Note=grpc.stream_unary_rpc_method_handler(behave) if streaming else unary(behave)
        )
        client = await raw(address)
        client.open(1, "Note")
        client.send(1, b"")
        client.reset(1)
        await client.ping()
        assert begun == []
        assert [each.calls for each in server.connections] == [{}]
        assert [each.http2.streams for each in server.connections] == [{}]

    async def test_a_call_that_is_cancelled_during_its_request(self, serve, raw):
        server, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        client.send(1, b"", flags=0)
        client.reset(1)
        client.open(3, "Echo")
        client.send(3, b"x")
        assert (await client.answer(3))[0]["grpc-status"] == "0"
        assert [each.http2.streams for each in server.connections] == [{}]

    async def test_a_handler_that_ignores_cancellation_is_not_answered_twice(self, serve, raw):
        blocked = BlockedHandler()

        async def behave(request, context):
            with contextlib.suppress(asyncio.CancelledError):
                await blocked(request, context)
            return b"nevertheless"

        _, address = await serve(Hold=unary(behave))
        client = await raw(address)
        client.open(1, "Hold", ("grpc-timeout", "10m"))
        client.send(1, b"")
        assert (await client.answer(1))[0]["grpc-status"] == "4"
        await soon(blocked.cancelled)
        client.write(frame(Frame.PING, 0, 0, bytes(8)))
        assert (await client.frame())[0] is Frame.PING

    async def test_calls_that_are_reset_free_their_places_at_once(self, serve, raw):
        """Although their handlers have not stopped when the next ones come."""
        blocked = BlockedHandler()
        _, address = await serve({"max_streams": 5}, Hold=unary(blocked), Echo=unary(echo))
        client = await raw(address)
        for number in (1, 3, 5, 7, 9):
            client.open(number, "Hold")
            client.send(number, b"")
        await soon(blocked.entered)
        for number in (1, 3, 5, 7, 9):
            client.reset(number)
        for number in (11, 13, 15, 17, 19):
            client.open(number, "Echo")
            client.send(number, b"x")
        for number in (11, 13, 15, 17, 19):
            assert (await client.answer(number))[0]["grpc-status"] == "0"

    async def test_more_calls_than_may_be_open_are_refused(self, serve, raw):
        blocked = BlockedHandler()
        _, address = await serve({"max_streams": 2}, Hold=unary(blocked))
        client = await raw(address)
        for number in (1, 3, 5):
            client.open(number, "Hold")
            client.send(number, b"")
        assert await client.answer(5) == ({}, Error.REFUSED_STREAM)
        blocked.release.set()
        assert (await client.answer(3))[0]["grpc-status"] == "0"
