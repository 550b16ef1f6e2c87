"""Calls of a real server that cannot be answered."""

import asyncio
import gzip

import grpc
import pytest
from grpc import aio
from raw_http2 import MAX_MESSAGE, WAIT_S, BlockedHandler, echo, refusal, soon, unary

from batcher.http2.sansio.frames import END_HEADERS, END_STREAM, Error, Frame, frame
from batcher.http2.sansio.hpack import encode


class TestRefusedCalls:
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

    async def test_binary_metadata_that_is_not_ascii(self, serve, raw):
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
    async def test_a_truncated_message(self, serve, raw, body):
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

    async def test_a_message_that_cannot_be_read_ends_its_call_and_its_handler(self, serve, raw):
        """The task that reads may be another one than the handler's."""
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
        reported = asyncio.get_running_loop().create_future()

        async def stubborn(_, context):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                try:
                    await context.write(b"too late")
                except aio.UsageError as error:
                    reported.set_result(str(error))

        _, address = await serve(Stay=grpc.unary_stream_rpc_method_handler(stubborn))
        client = await raw(address)
        client.open(1, "Stay")
        client.send(1, b"")
        await client.ping()
        client.reset(1)
        async with asyncio.timeout(WAIT_S):
            assert await reported == "the call has ended"

    async def test_messages_are_not_decompressed_before_they_are_read(
        self, serve, raw, monkeypatch
    ):
        decompressed = []
        monkeypatch.setattr(
            "batcher.http2.call_messages.Decompressor", lambda *each: decompressed.append(each)
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
        assert decompressed == []

    @pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    async def test_compressed_messages(self, serve, dial, compression):
        _, address = await serve(Size=unary(echo, response_serializer=lambda m: b"%d" % len(m)))
        channel = await dial(address, compression=compression)
        call = channel.unary_unary("/s/Size")
        assert await call(bytes(MAX_MESSAGE)) == b"%d" % MAX_MESSAGE
        error = await refusal(call(bytes(MAX_MESSAGE + 1)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
