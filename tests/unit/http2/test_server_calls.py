"""Calls of a real server on loopback, by grpc's client and by clients that write frames themselves."""

import asyncio
import random

import grpc
import pytest
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from raw_http2 import MAX_MESSAGE, WAIT_S, BlockedHandler, echo, refusal, unary

from batcher.http2.call_messages import LargeMessage
from batcher.http2.grpc_headers import INTERNAL_ERROR
from batcher.http2.sansio.frames import Frame, Setting
from batcher.http2.server import STREAM_WINDOW


class TestKindsOfCalls:
    @pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 70_000, MAX_MESSAGE])
    async def test_unary_messages_of_any_size(self, serve, dial, size):
        _, address = await serve(Echo=unary(echo))
        channel = await dial(address)
        message = (bytes(range(256)) * (size // 256 + 1))[:size]
        assert await channel.unary_unary("/s/Echo")(message, timeout=WAIT_S) == message

    async def test_many_calls_at_once(self, serve, dial):
        _, address = await serve(Echo=unary(echo))
        call = (await dial(address)).unary_unary("/s/Echo")
        messages = [str(number).encode() for number in range(100)]
        answers = await asyncio.gather(*(call(each, timeout=WAIT_S) for each in messages))
        assert answers == messages

    async def test_requests_and_answers_are_parsed_and_written(self, serve, dial):
        async def behave(request, context):
            assert isinstance(request, int)
            return request + 1

        handler = unary(
            behave, request_deserializer=int, response_serializer=lambda n: str(n).encode()
        )
        _, address = await serve(More=handler)
        assert await (await dial(address)).unary_unary("/s/More")(b"41") == b"42"

    async def test_a_generator_answers_with_a_stream(self, serve, dial):
        async def behave(request, context):
            for byte in request:
                yield bytes([byte])

        handler = grpc.unary_stream_rpc_method_handler(behave)
        _, address = await serve(Each=handler)
        call = (await dial(address)).unary_stream("/s/Each")(b"abc")
        assert [answer async for answer in call] == [b"a", b"b", b"c"]
        assert await call.code() is grpc.StatusCode.OK

    async def test_a_coroutine_answers_with_a_stream(self, serve, dial):
        async def behave(request, context):
            for byte in request:
                await context.write(bytes([byte]))
            context.set_trailing_metadata((("count", "3"),))

        handler = grpc.unary_stream_rpc_method_handler(behave)
        _, address = await serve(Each=handler)
        call = (await dial(address)).unary_stream("/s/Each")(b"abc")
        assert [answer async for answer in call] == [b"a", b"b", b"c"]
        assert dict(iter(await call.trailing_metadata()))["count"] == "3"

    async def test_a_stream_may_have_no_message(self, serve, dial):
        async def behave(request, context):
            return
            yield

        _, address = await serve(None_=grpc.unary_stream_rpc_method_handler(behave))
        call = (await dial(address)).unary_stream("/s/None_")(b"")
        assert [answer async for answer in call] == []
        assert await call.code() is grpc.StatusCode.OK

    @pytest.mark.parametrize("count", [0, 1, 20])
    async def test_a_stream_is_answered_once(self, serve, dial, count):
        async def iterate(requests, context):
            return b"".join([each async for each in requests])

        async def read(requests, context):
            found = b""
            while (each := await context.read()) is not aio.EOF:
                found += each
            return found

        handlers = [grpc.stream_unary_rpc_method_handler(each) for each in (iterate, read)]
        _, address = await serve(Iterate=handlers[0], Read=handlers[1])
        channel = await dial(address)
        messages = [bytes([number]) * 10_000 for number in range(count)]
        for name in ("Iterate", "Read"):
            answer = await channel.stream_unary(f"/s/{name}")(iter(messages), timeout=WAIT_S)
            assert answer == b"".join(messages)

    async def test_streams_alternate_in_both_directions(self, serve, dial):
        async def iterate(requests, context):
            async for each in requests:
                yield each * 2

        async def read(requests, context):
            while (each := await context.read()) is not aio.EOF:
                await context.write(each * 2)

        handlers = [
            grpc.stream_stream_rpc_method_handler(each, int, lambda n: str(n).encode())
            for each in (iterate, read)
        ]
        _, address = await serve(Iterate=handlers[0], Read=handlers[1])
        channel = await dial(address)
        for name in ("Iterate", "Read"):
            call = channel.stream_stream(f"/s/{name}")(timeout=WAIT_S)
            for number in range(5):
                await call.write(str(number).encode())
                assert await call.read() == str(2 * number).encode()
            await call.done_writing()
            assert await call.read() is aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    @pytest.mark.parametrize("first", [1, 60_000, 80_000, 131_000, 131_066, 131_067, 140_000])
    async def test_a_large_message_follows_another(self, serve, dial, first):
        async def behave(requests, context):
            async for each in requests:
                yield str(len(each)).encode()

        _, address = await serve(Size=grpc.stream_stream_rpc_method_handler(behave))
        call = (await dial(address)).stream_stream("/s/Size")(timeout=WAIT_S)
        for size in (first, MAX_MESSAGE, first, MAX_MESSAGE):
            await call.write(bytes(size))
            assert await call.read() == str(size).encode()

    async def test_messages_that_are_not_read_wait_at_the_client(self, serve, raw):
        blocked = BlockedHandler()

        async def behave(requests, context):
            await blocked(b"", context)
            return str(len([each async for each in requests])).encode()

        _, address = await serve(Count=grpc.stream_unary_rpc_method_handler(behave))
        client = await raw(address)
        client.open(1, "Count")
        message = bytes(STREAM_WINDOW // 4 - 5)
        client.send(1, *[message] * 4, flags=0)
        await client.ping()
        blocked.release.set()
        await client.until(Frame.WINDOW_UPDATE, 1)
        client.send(1, message)
        assert (await client.answer(1))[1] == b"\0\0\0\0\x015"

    @pytest.mark.parametrize("window", [1, 1000, 70_000])
    @pytest.mark.parametrize("name", ["Echo", "Stream", "Write"])
    async def test_a_large_answer_through_a_small_window(self, serve, raw, name, window):
        async def stream(request, context):
            yield request

        async def write(request, context):
            await context.write(request)

        _, address = await serve(
            Echo=unary(echo),
            Stream=grpc.unary_stream_rpc_method_handler(stream),
            Write=grpc.unary_stream_rpc_method_handler(write),
        )
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, window))
        message = bytes(range(250)) * 400
        client.open(1, name)
        client.send(1, message)
        (*_, first) = await client.until(Frame.DATA)
        client.window_update(0, 10**6)
        client.window_update(1, 10**6)
        fields, rest = await client.answer(1)
        assert fields["grpc-status"] == "0"
        assert len(first) <= window
        assert first + rest == b"\0" + len(message).to_bytes(4, "big") + message


class TestHandlerContext:
    async def test_metadata_and_time_remaining(self, serve, dial):
        found = []

        async def behave(request, context):
            found.append((context.time_remaining(), dict(context.invocation_metadata())))
            return b""

        _, address = await serve(Look=unary(behave))
        call = (await dial(address)).unary_unary("/s/Look")
        # A client rounds what it sends up, by as much as a hundredth.
        timeout = 0.98 * WAIT_S
        await call(b"", metadata=(("a", "1"), ("b-bin", b"\0\xff")), timeout=timeout)
        await call(b"")
        (remaining, metadata), (nothing, _) = found
        assert 0 < remaining <= WAIT_S
        assert nothing is None
        assert (metadata["a"], metadata["b-bin"]) == ("1", b"\0\xff")

    async def test_trailing_metadata_of_a_unary_answer(self, serve, dial):
        async def behave(request, context):
            context.set_trailing_metadata((("a", "1"), ("b-bin", b"\0\xff")))
            return b""

        _, address = await serve(Tell=unary(behave))
        call = (await dial(address)).unary_unary("/s/Tell")(b"")
        assert await call == b""
        trailers = dict(iter(await call.trailing_metadata()))
        assert (trailers["a"], trailers["b-bin"]) == ("1", b"\0\xff")

    async def test_abort_ends_the_call_with_its_status(self, serve, dial):
        async def given(request, context):
            context.set_trailing_metadata((("set", "before"),))
            await context.abort(grpc.StatusCode.ABORTED, "why: é 100%", (("a", "1"),))

        async def kept(request, context):
            context.set_trailing_metadata((("set", "before"),))
            await context.abort(grpc.StatusCode.NOT_FOUND)

        _, address = await serve(Given=unary(given), Kept=unary(kept))
        channel = await dial(address)
        error = await refusal(channel.unary_unary("/s/Given")(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "why: é 100%")
        assert dict(iter(error.trailing_metadata())) == {"a": "1"}
        error = await refusal(channel.unary_unary("/s/Kept")(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "")
        assert dict(iter(error.trailing_metadata())) == {"set": "before"}

    async def test_abort_after_some_answers(self, serve, dial):
        async def behave(request, context):
            yield b"one"
            await context.abort(grpc.StatusCode.DATA_LOSS, "no more")

        _, address = await serve(Some=grpc.unary_stream_rpc_method_handler(behave))
        call = (await dial(address)).unary_stream("/s/Some")(b"")
        assert await call.read() == b"one"
        error = await refusal(call.read())
        assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "no more")

    @pytest.mark.parametrize("answers", [0, 1])
    async def test_an_exception_is_logged_and_its_text_is_not_sent(
        self, serve, dial, caplog, answers
    ):
        async def one(request, context):
            raise ValueError("of the handler")

        async def some(request, context):
            for _ in range(answers):
                yield b"x"
            raise ValueError("of the handler")

        _, address = await serve(One=unary(one), Some=grpc.unary_stream_rpc_method_handler(some))
        channel = await dial(address)
        call = channel.unary_stream("/s/Some")(b"")
        for _ in range(answers):
            await call.read()
        for failed in (call.read(), channel.unary_unary("/s/One")(b"")):
            error = await refusal(failed)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert error.details() == INTERNAL_ERROR
        assert len([each for each in caplog.records if each.exc_info]) == 2

    async def test_an_exception_with_surrogates_in_its_text(self, serve, dial):
        async def behave(request, context):
            raise FileNotFoundError(2, "No such file", b"\xff".decode(errors="surrogateescape"))

        async def said(request, context):
            await context.abort(grpc.StatusCode.NOT_FOUND, b"\xff".decode(errors="surrogateescape"))

        _, address = await serve(Open=unary(behave), Say=unary(said))
        channel = await dial(address)
        error = await refusal(channel.unary_unary("/s/Open")(b""))
        assert error.code() is grpc.StatusCode.INTERNAL
        error = await refusal(channel.unary_unary("/s/Say")(b""))
        assert error.code() is grpc.StatusCode.NOT_FOUND

    async def test_requests_that_cannot_be_parsed(self, serve, dial):
        async def first(requests, context):
            return await anext(aiter(requests))

        _, address = await serve(
            Unary=unary(echo, request_deserializer=int),
            Stream=grpc.stream_unary_rpc_method_handler(first, request_deserializer=int),
        )
        channel = await dial(address)
        calls = (channel.unary_unary("/s/Unary")(b"x"), channel.stream_unary("/s/Stream")([b"x"]))
        for call in calls:
            error = await refusal(call)
            assert (error.code(), error.details()) == (
                grpc.StatusCode.INTERNAL,
                "Exception deserializing request!",
            )

    async def test_a_call_that_was_refused_has_no_deadline_left(self, serve, raw, problems):
        blocked = BlockedHandler()
        _, address = await serve(Parse=unary(echo, request_deserializer=int), Hold=unary(blocked))
        client = await raw(address)
        soon_over = ("grpc-timeout", "20m")
        client.open(1, "Parse", soon_over)
        client.send(1, b"x")
        client.open(3, "Parse", soon_over)
        client.send(3)
        client.open(5, "Hold", soon_over)
        client.send(5, b"")
        statuses = [(await client.answer(number))[0]["grpc-status"] for number in (1, 3, 5)]
        assert statuses == ["13", "12", "4"]
        assert problems == []


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_message_of_more_than_a_megabyte(serve, dial, kind):
    async def sizes(requests, context):
        return b" ".join([b"%d" % len(each) async for each in requests])

    async def size(request, context):
        assert isinstance(request, bytes)
        return b"%d" % len(request)

    server, address = await serve(
        {"max_message": 2**22},
        unary=unary(size),
        stream=grpc.stream_unary_rpc_method_handler(sizes),
    )
    channel = await dial(address)
    if kind == "unary":
        assert await channel.unary_unary("/s/unary")(bytes(3_000_000)) == b"3000000"
    else:
        messages = [bytes(each) for each in (5, 3_000_000, 7, 2**20 + 1)]
        call = channel.stream_unary("/s/stream")(iter(messages))
        assert await call == b"5 3000000 7 1048577"
    assert all(client.account.granted == 0 for client in server.connections)


@given(st.data())
def test_a_large_message_is_assembled_from_its_pieces(data):
    size = data.draw(st.integers(1, 300_000))
    coming = random.Random(size).randbytes(size) + b"next"
    large, at = LargeMessage(0, size), 0
    while large.left:
        step = data.draw(st.integers(1, 2**17))
        taken = large.add(memoryview(coming)[at : at + step])
        at += taken
        assert large.left == size - at
        assert taken == step or not large.left
    assert b"".join(large.pieces) == coming[:size]
