"""Calls of a real server that cannot be answered, that are late, and whose callers leave."""

import asyncio
import contextlib
import gzip

import grpc
import pytest
from grpc import aio
from raw_http2 import MAX_MESSAGE, WAIT_S, BlockedHandler, all_closed, echo, refusal, soon, unary

from batcher.http2.sansio.frames import END_HEADERS, END_STREAM, Error, Frame, Setting, frame
from batcher.http2.sansio.hpack import encode


class TestCallsThatCannotBeAnswered:
    async def test_an_unknown_method(self, serve, dial):
        _, address = await serve(Echo=unary(echo))
        channel = await dial(address)
        error = await refusal(channel.unary_unary("/s/Other")(bytes(100_000)))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await channel.unary_unary("/s/Echo")(b"x") == b"x"

    @pytest.mark.parametrize(
        ("metadata", "expected"),
        [
            ((":method", "GET"), {":status": "405"}),
            (("content-type", "text/html"), {":status": "415"}),
            (("grpc-timeout", "soon"), {":status": "200", "grpc-status": "3"}),
            (("grpc-encoding", "snappy"), {":status": "200", "grpc-status": "12"}),
            (("x-bin", "?"), {":status": "200", "grpc-status": "3"}),
            (("x", "v" * 17_000), {":status": "200", "grpc-status": "8"}),
        ],
    )
    async def test_malformed_headers(self, serve, raw, metadata, expected):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/s/Echo",
            "content-type": "application/grpc",
            **dict([metadata]),
        }
        block = encode(fields.items())
        client.write(frame(Frame.HEADERS, 0, 1, block[:16_000]))
        client.write(frame(Frame.CONTINUATION, END_HEADERS, 1, block[16_000:]))
        client.send(1, b"")
        found, _ = await client.answer(1)
        assert found.items() >= expected.items()
        client.open(3, "Echo")
        client.send(3, b"x")
        assert (await client.answer(3))[1] == b"\0\0\0\0\1x"

    async def test_binary_metadata_that_is_no_ascii(self, serve, raw):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo", ("x-bin", "é"))
        assert (await client.answer(1))[0]["grpc-status"] == "3"

    async def test_a_block_that_cannot_be_read_ends_the_connection(self, serve, raw):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.write(frame(Frame.HEADERS, END_HEADERS, 1, b"\xbe"))
        (kind, _, _, payload) = (await client.ended())[-1]
        assert kind is Frame.GOAWAY
        assert payload[4:8] == Error.COMPRESSION_ERROR.to_bytes(4, "big")

    @pytest.mark.parametrize(
        ("messages", "status"), [((), "12"), ((b"a", b"b"), "12"), ((b"a",), "0")]
    )
    async def test_a_unary_call_has_one_message(self, serve, raw, messages, status):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        client.send(1, *messages)
        assert (await client.answer(1))[0]["grpc-status"] == status

    @pytest.mark.parametrize("body", [b"\0", b"\0\0\0\0\5abcd", b"\0\0\0\0\1a\0"])
    async def test_a_message_that_is_cut_short(self, serve, raw, body):
        async def count(requests, context):
            return str(len([each async for each in requests])).encode()

        _, address = await serve(
            Echo=unary(echo), Count=grpc.stream_unary_rpc_method_handler(count)
        )
        client = await raw(address)
        for number, name in ((1, "Echo"), (3, "Count")):
            client.open(number, name)
            client.write(frame(Frame.DATA, END_STREAM, number, body))
            assert (await client.answer(number))[0]["grpc-status"] == "13"

    async def test_a_message_that_is_larger_than_allowed(self, serve, dial):
        async def count(requests, context):
            return str(len([each async for each in requests])).encode()

        _, address = await serve(
            Echo=unary(echo), Count=grpc.stream_unary_rpc_method_handler(count)
        )
        channel = await dial(address)
        too_large = bytes(MAX_MESSAGE + 1)
        for call in (
            channel.unary_unary("/s/Echo")(too_large),
            channel.stream_unary("/s/Count")(iter([b"x", too_large])),
        ):
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert f"{MAX_MESSAGE + 1} vs. {MAX_MESSAGE}" in error.details()
        assert await channel.unary_unary("/s/Echo")(b"x") == b"x"

    async def test_an_answer_that_is_larger_than_allowed(self, serve, dial):
        async def one(request, context):
            return bytes(MAX_MESSAGE + 1)

        async def some(request, context):
            yield b"x"
            yield bytes(MAX_MESSAGE + 1)

        _, address = await serve(One=unary(one), Some=grpc.unary_stream_rpc_method_handler(some))
        channel = await dial(address)
        call = channel.unary_stream("/s/Some")(b"")
        assert await call.read() == b"x"
        for failed in (call.read(), channel.unary_unary("/s/One")(b"")):
            error = await refusal(failed)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "Sent message larger than max" in error.details()

    async def test_a_second_message_of_a_unary_call_ends_it(self, serve, raw):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        client.send(1, b"one", b"two", flags=0)
        fields, _ = await client.answer(1)
        assert fields["grpc-status"] == str(grpc.StatusCode.UNIMPLEMENTED.value[0])

    async def test_a_message_that_cannot_be_read_ends_all_of_its_call(self, serve, raw):
        """Whoever reads may be another task than the handler's."""
        cancelled = asyncio.Event()

        async def apart(_, context):
            reader = asyncio.create_task(context.read())
            try:
                await asyncio.gather(reader, return_exceptions=True)
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        _, address = await serve(Apart=grpc.stream_stream_rpc_method_handler(apart))
        client = await raw(address)
        client.open(1, "Apart", ("grpc-encoding", "gzip"))
        client.write(frame(Frame.DATA, 0, 1, b"\1\0\0\0\3bad"))
        fields, _ = await client.answer(1)
        assert fields["grpc-status"] == str(grpc.StatusCode.INTERNAL.value[0])
        await soon(cancelled)

    async def test_nothing_is_written_to_a_call_that_has_ended(self, serve, raw):
        told = asyncio.get_running_loop().create_future()

        async def stubborn(_, context):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                try:
                    await context.write(b"too late")
                except aio.UsageError as error:
                    told.set_result(str(error))

        _, address = await serve(Stay=grpc.unary_stream_rpc_method_handler(stubborn))
        client = await raw(address)
        client.open(1, "Stay")
        client.send(1, b"")
        await client.ping()
        client.reset(1)
        async with asyncio.timeout(WAIT_S):
            assert await told == "the call has ended"

    async def test_what_waits_to_be_read_is_not_inflated(self, serve, raw, monkeypatch):
        inflated = []
        monkeypatch.setattr(
            "batcher.http2.call_messages.Decompressor", lambda *each: inflated.append(each)
        )
        blocked = BlockedHandler()
        _, address = await serve(Hold=grpc.stream_unary_rpc_method_handler(blocked))
        client = await raw(address)
        client.open(1, "Hold", ("grpc-encoding", "gzip"))
        small = gzip.compress(bytes(10_000), mtime=0)
        messages = 3 * (b"\1" + len(small).to_bytes(4, "big") + small)
        client.write(frame(Frame.DATA, END_STREAM, 1, messages))
        await client.ping()
        assert blocked.entered.is_set()
        assert inflated == []

    @pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    async def test_compressed_messages(self, serve, dial, compression):
        _, address = await serve(Size=unary(echo, response_serializer=lambda m: b"%d" % len(m)))
        channel = await dial(address, compression=compression)
        call = channel.unary_unary("/s/Size")
        assert await call(bytes(MAX_MESSAGE)) == b"%d" % MAX_MESSAGE
        error = await refusal(call(bytes(MAX_MESSAGE + 1)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


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

    async def test_a_deadline_beyond_all(self, serve, raw):
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

    async def test_trailers_after_a_part_of_an_answer_are_trailers(self, serve, raw):
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


class TestCallersWhoLeave:
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

    async def test_a_unary_answer_whose_caller_leaves_is_lost(self, serve, raw):
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
    async def test_a_handler_does_not_begin_for_a_caller_who_has_left(self, serve, raw, streaming):
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

    async def test_a_caller_who_leaves_during_its_request(self, serve, raw):
        server, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        client.send(1, b"", flags=0)
        client.reset(1)
        client.open(3, "Echo")
        client.send(3, b"x")
        assert (await client.answer(3))[0]["grpc-status"] == "0"
        assert [each.http2.streams for each in server.connections] == [{}]

    async def test_a_handler_that_does_not_want_to_end_is_not_answered_twice(self, serve, raw):
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

    async def test_calls_that_are_reset_make_room_at_once(self, serve, raw):
        """Though those of before have not stopped when the next ones come."""
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
