"""A real server on loopback, with grpc's clients, and with clients that misbehave by hand."""

import asyncio
import contextlib
import socket
import struct

import grpc
import pytest
from grpc import aio
from hpack import Decoder

from batcher.http2 import server as server_module
from batcher.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.headers import encode
from batcher.http2.server import STREAM_WINDOW, Server

WAIT_S = 10
"""What takes this long has failed: so a mistake is no hanging test."""
MAX_MESSAGE = 200_000


class Handlers(grpc.GenericRpcHandler):
    """Methods by name: `/s/NAME`."""

    def __init__(self, methods):
        self._methods = methods

    def service(self, details):
        return self._methods.get(details.method.removeprefix("/s/"))


@pytest.fixture(autouse=True)
async def _no_test_hangs():
    async with asyncio.timeout(3 * WAIT_S):
        yield


@pytest.fixture
async def problems():
    """What went wrong where nobody waits for it."""
    found = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    assert found == []


@pytest.fixture
async def serve(problems):
    """Servers of methods, on loopback: `server, address`."""
    servers = []

    async def start(limits=None, **methods):
        made = Server(
            [Handlers(methods)],
            **{
                "max_message": MAX_MESSAGE,
                "max_streams": 10,
                "max_connections": 10,
                "max_headers": 16_384,
                **(limits or {}),
            },
        )
        servers.append(made)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        await made.listen(sock, None)
        return made, f"127.0.0.1:{port}"

    yield start
    for each in servers:
        await each.stop(0)


@pytest.fixture
async def dial():
    """Channels of grpc's own client."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(address, *options, **rest):
            sizes = [
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ]
            channel = aio.insecure_channel(address, options=[*sizes, *options], **rest)
            return await stack.enter_async_context(channel)

        yield connect


@pytest.fixture
async def raw():
    """Clients that write frames by hand."""
    clients = []

    async def connect(address, *settings, greet=True, **rest):
        host, port = address.split(":")
        client = Raw(*await asyncio.open_connection(host, int(port), **rest))
        clients.append(client)
        if greet:
            client.write(PREFACE, client.settings(*settings))
        return client

    yield connect
    for client in clients:
        client.writer.close()


class Raw:
    """One connection, frame by frame."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.decoder = Decoder()

    @staticmethod
    def settings(*pairs):
        return frame(Frame.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in pairs))

    def write(self, *pieces):
        self.writer.write(b"".join(pieces))

    def open(self, number, path, *metadata, flags=0):
        fields = (
            (":method", "POST"),
            (":path", f"/s/{path}"),
            ("content-type", "application/grpc"),
            *metadata,
        )
        self.write(frame(Frame.HEADERS, END_HEADERS | flags, number, encode(fields)))

    def send(self, number, *messages, flags=END_STREAM):
        body = b"".join(b"\0" + len(each).to_bytes(4, "big") + each for each in messages)
        for start in range(0, len(body) or 1, 16_384):
            last = flags if start + 16_384 >= len(body) else 0
            self.write(frame(Frame.DATA, last, number, body[start : start + 16_384]))

    def reset(self, number):
        self.write(frame(Frame.RST_STREAM, 0, number, Error.CANCEL.to_bytes(4, "big")))

    def widen(self, number, more):
        self.write(frame(Frame.WINDOW_UPDATE, 0, number, more.to_bytes(4, "big")))

    async def frame(self):
        """The next frame, or None at the end."""
        async with asyncio.timeout(WAIT_S):
            try:
                head = await self.reader.readexactly(9)
                size = int.from_bytes(head[:3], "big")
                kind, flags, number = struct.unpack_from(">BBI", head, 3)
                return Frame(kind), flags, number, await self.reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def until(self, kind, number=None):
        """The next frame of a kind, those before it left out."""
        while found := await self.frame():
            if found[0] is kind and number in {None, found[2]}:
                return found
        raise AssertionError(f"the connection ended before {kind!r}")

    async def answer(self, number):
        """The fields and the body of a whole answer."""
        fields, body = [], bytearray()
        while found := await self.frame():
            kind, flags, stream, payload = found
            if kind is Frame.HEADERS:
                decoded = self.decoder.decode(payload)
                fields += decoded if stream == number else []
            if stream != number:
                continue
            if kind is Frame.RST_STREAM:
                return dict(fields), Error(int.from_bytes(payload, "big"))
            if kind is Frame.DATA:
                body += payload
            elif kind is Frame.HEADERS and flags & END_STREAM:
                return dict(fields), bytes(body)
        raise AssertionError("the connection ended before the answer")

    async def ping(self):
        """Returns when the server has read all that was written."""
        self.write(frame(Frame.PING, 0, 0, b"12345678"))
        while found := await self.frame():
            if found[0] is Frame.PING:
                return
        raise AssertionError("the connection ended before the ping's answer")

    async def ended(self):
        """The last frames, when the server has closed the connection."""
        found = []
        while each := await self.frame():
            found.append(each)
        return found


async def refusal(call):
    with pytest.raises(aio.AioRpcError) as caught:
        async with asyncio.timeout(WAIT_S):
            await call
    return caught.value


def unary(behave, **rest):
    return grpc.unary_unary_rpc_method_handler(behave, **rest)


async def echo(request, context):
    return request


class Held:
    """A handler that waits until it is let go, or cancelled."""

    def __init__(self):
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, request, context):
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request


class Flood:
    """A handler that writes more than sockets hold."""

    COUNT = 300

    def __init__(self):
        self.turns = 1
        """Of the loop, between two messages."""
        self.written = 0
        self.left = asyncio.Event()

    async def __call__(self, request, context):
        try:
            for _ in range(self.COUNT):
                await context.write(bytes(100_000))
                self.written += 1
                for _ in range(self.turns):
                    await asyncio.sleep(0)
        finally:
            self.left.set()


async def soon(event):
    async with asyncio.timeout(WAIT_S):
        await event.wait()


async def turns(condition):
    """Turns of the loop, until the condition holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # nobody tells of it
            await asyncio.sleep(0)


async def gone(made):
    """Until no connection is left."""
    await turns(lambda: not made.clients)


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
        assert dict(await call.trailing_metadata())["count"] == "3"

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

    async def test_streams_go_both_ways_in_turn(self, serve, dial):
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

    async def test_messages_that_nobody_reads_wait_at_the_client(self, serve, raw):
        held = Held()

        async def behave(requests, context):
            await held(b"", context)
            return str(len([each async for each in requests])).encode()

        _, address = await serve(Count=grpc.stream_unary_rpc_method_handler(behave))
        client = await raw(address)
        client.open(1, "Count")
        message = bytes(STREAM_WINDOW // 4 - 5)
        client.send(1, *[message] * 4, flags=0)
        await client.ping()
        held.release.set()
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
        client.widen(0, 10**6)
        client.widen(1, 10**6)
        fields, rest = await client.answer(1)
        assert fields["grpc-status"] == "0"
        assert len(first) <= window
        assert first + rest == b"\0" + len(message).to_bytes(4, "big") + message


class TestWhatAHandlerGets:
    async def test_metadata_and_the_time_that_is_left(self, serve, dial):
        found = []

        async def behave(request, context):
            found.append((context.time_remaining(), dict(context.invocation_metadata())))
            return b""

        _, address = await serve(Look=unary(behave))
        call = (await dial(address)).unary_unary("/s/Look")
        await call(b"", metadata=(("a", "1"), ("b-bin", b"\0\xff")), timeout=WAIT_S)
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
        trailers = dict(await call.trailing_metadata())
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
        assert dict(error.trailing_metadata()) == {"a": "1"}
        error = await refusal(channel.unary_unary("/s/Kept")(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "")
        assert dict(error.trailing_metadata()) == {"set": "before"}

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
    async def test_an_exception_is_told_and_logged(self, serve, dial, caplog, answers):
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
            assert error.code() is grpc.StatusCode.UNKNOWN
            assert "of the handler" in error.details()
        assert len([each for each in caplog.records if each.exc_info]) == 2

    async def test_an_exception_that_names_a_file_that_is_no_text(self, serve, dial):
        async def behave(request, context):
            raise FileNotFoundError(2, "No such file", b"\xff".decode(errors="surrogateescape"))

        async def said(request, context):
            await context.abort(grpc.StatusCode.NOT_FOUND, b"\xff".decode(errors="surrogateescape"))

        _, address = await serve(Open=unary(behave), Say=unary(said))
        channel = await dial(address)
        error = await refusal(channel.unary_unary("/s/Open")(b""))
        assert error.code() is grpc.StatusCode.UNKNOWN
        error = await refusal(channel.unary_unary("/s/Say")(b""))
        assert error.code() is grpc.StatusCode.NOT_FOUND

    async def test_requests_that_cannot_be_parsed(self, serve, dial, caplog):
        async def first(requests, context):
            return await anext(aiter(requests))

        _, address = await serve(
            Unary=unary(echo, request_deserializer=int),
            Stream=grpc.stream_unary_rpc_method_handler(first, request_deserializer=int),
        )
        channel = await dial(address)
        error = await refusal(channel.unary_unary("/s/Unary")(b"x"))
        assert (error.code(), error.details()) == (
            grpc.StatusCode.INTERNAL,
            "Exception deserializing request!",
        )
        error = await refusal(channel.stream_unary("/s/Stream")(iter([b"x"])))
        assert error.code() is grpc.StatusCode.UNKNOWN

    async def test_a_call_that_was_refused_has_no_deadline_left(self, serve, raw, problems):
        held = Held()
        _, address = await serve(Parse=unary(echo, request_deserializer=int), Hold=unary(held))
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
        held = Held()
        _, address = await serve(Hold=unary(held))
        client = await raw(address)
        client.open(1, "Hold", ("grpc-timeout", "10m"))
        client.send(1, b"")
        fields, _ = await client.answer(1)
        assert (fields["grpc-status"], fields["grpc-message"]) == ("4", "Deadline Exceeded")
        await soon(held.cancelled)

    async def test_a_call_expires_before_its_message_came(self, serve, raw):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo", ("grpc-timeout", "1m"))
        assert (await client.answer(1))[0]["grpc-status"] == "4"
        client.send(1, b"late")
        await client.ping()

    async def test_a_deadline_that_has_passed(self, serve, raw):
        _, address = await serve(Hold=unary(Held()))
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
        held = Held()
        made, address = await serve(Hold=unary(held), Echo=unary(echo))
        channel = await dial(address)
        call = channel.unary_unary("/s/Hold")(b"")
        await soon(held.entered)
        call.cancel()
        await soon(held.cancelled)
        assert await channel.unary_unary("/s/Echo")(b"x") == b"x"
        assert [client.calls for client in made.clients] == [{}]

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

        _, address = await serve(Write=grpc.unary_stream_rpc_method_handler(behave))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 10))
        client.open(1, "Write")
        client.send(1, b"")
        await client.until(Frame.DATA)
        client.reset(1)
        await soon(left)

    async def test_the_handlers_of_a_lost_connection_are_cancelled(self, serve, raw):
        held, reading = Held(), Held()

        async def read(requests, context):
            return await reading(await context.read(), context)

        made, address = await serve(
            Hold=unary(held), Read=grpc.stream_unary_rpc_method_handler(read), Echo=unary(echo)
        )
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"")
        client.open(3, "Read")
        client.send(3, b"", flags=0)
        client.open(5, "Echo")
        await soon(held.entered)
        await soon(reading.entered)
        client.writer.transport.abort()
        await soon(held.cancelled)
        await soon(reading.cancelled)
        await gone(made)

    @pytest.mark.parametrize("streaming", [False, True])
    async def test_a_handler_does_not_begin_for_a_caller_who_has_left(self, serve, raw, streaming):
        begun = []

        async def behave(request, context):
            begun.append(request)
            return b""

        made, address = await serve(
            Note=grpc.stream_unary_rpc_method_handler(behave) if streaming else unary(behave)
        )
        client = await raw(address)
        client.open(1, "Note")
        client.send(1, b"")
        client.reset(1)
        await client.ping()
        assert begun == []
        assert [each.calls for each in made.clients] == [{}]
        assert [each.connection.streams for each in made.clients] == [{}]

    async def test_a_caller_who_leaves_during_its_request(self, serve, raw):
        made, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        client.send(1, b"", flags=0)
        client.reset(1)
        client.open(3, "Echo")
        client.send(3, b"x")
        assert (await client.answer(3))[0]["grpc-status"] == "0"
        assert [each.connection.streams for each in made.clients] == [{}]

    async def test_a_handler_that_does_not_want_to_end_is_not_answered_twice(self, serve, raw):
        held = Held()

        async def behave(request, context):
            with contextlib.suppress(asyncio.CancelledError):
                await held(request, context)
            return b"nevertheless"

        _, address = await serve(Hold=unary(behave))
        client = await raw(address)
        client.open(1, "Hold", ("grpc-timeout", "10m"))
        client.send(1, b"")
        assert (await client.answer(1))[0]["grpc-status"] == "4"
        await soon(held.cancelled)
        client.write(frame(Frame.PING, 0, 0, bytes(8)))
        assert (await client.frame())[0] is Frame.PING

    async def test_more_calls_than_may_be_open_are_refused(self, serve, raw):
        held = Held()
        _, address = await serve({"max_streams": 2}, Hold=unary(held))
        client = await raw(address)
        for number in (1, 3, 5):
            client.open(number, "Hold")
            client.send(number, b"")
        assert await client.answer(5) == ({}, Error.REFUSED_STREAM)
        held.release.set()
        assert (await client.answer(3))[0]["grpc-status"] == "0"


class TestConnections:
    async def test_one_over_the_maximum_is_closed(self, serve, raw):
        made, address = await serve({"max_connections": 1}, Echo=unary(echo))
        first = await raw(address)
        await first.ping()
        second = await raw(address)
        assert await second.ended() == []
        await first.ping()
        first.writer.close()
        await gone(made)
        await (await raw(address)).ping()

    async def test_the_maximum_is_for_each_listener(self, serve, raw):
        made, address = await serve({"max_connections": 1}, Echo=unary(echo))
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        await made.listen(sock, None)
        for each in (address, f"127.0.0.1:{port}"):
            await (await raw(each)).ping()

    @pytest.mark.parametrize("sent", [b"", PREFACE[:10], PREFACE + bytes(3)])
    async def test_a_client_that_never_greets_is_cut(self, serve, raw, monkeypatch, sent):
        monkeypatch.setattr(server_module, "GREETING_S", 0.02)
        made, address = await serve()
        silent = await raw(address, greet=False)
        silent.write(sent)
        await silent.ended()
        await gone(made)

    async def test_a_client_that_has_greeted_may_be_silent(self, serve, raw, monkeypatch):
        monkeypatch.setattr(server_module, "GREETING_S", 0.02)
        _, address = await serve()
        client = await raw(address)
        await client.ping()
        await (await raw(address, greet=False)).ended()
        await client.ping()

    async def test_another_protocol_is_told_so(self, serve, raw):
        made, address = await serve()
        client = await raw(address, greet=False)
        client.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        (*_, last) = await client.ended()
        assert last[0] is Frame.GOAWAY
        assert last[3].endswith(b"this port speaks HTTP/2")
        await gone(made)

    async def test_a_client_that_breaks_the_rules_loses_its_calls(self, serve, raw):
        held = Held()
        made, address = await serve(Hold=unary(held))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"")
        await soon(held.entered)
        client.widen(0, 0)
        (*_, last) = await client.ended()
        assert last[0] is Frame.GOAWAY
        await soon(held.cancelled)
        await gone(made)

    async def test_frames_may_come_byte_by_byte(self, serve, raw):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address, greet=False)
        written = []
        client.write = lambda *pieces: written.extend(pieces)
        client.write(PREFACE, client.settings())
        client.open(1, "Echo")
        client.send(1, b"x")
        for byte in b"".join(written):
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        assert (await client.answer(1))[1] == b"\0\0\0\0\1x"

    @pytest.fixture
    async def flooded(self, serve, raw):
        """A client that does not read what a handler writes: `server, client, handler`."""
        flood = Flood()
        made, address = await serve(Flood=grpc.unary_stream_rpc_method_handler(flood))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 2**26), limit=2**16)
        client.widen(0, 2**26)
        client.open(1, "Flood")
        client.send(1, b"")
        return made, client, flood

    @pytest.mark.slow
    async def test_a_slow_reader_is_waited_for(self, flooded):
        made, client, flood = flooded
        await client.until(Frame.HEADERS, 1)
        (server_side,) = made.clients
        await turns(lambda: not server_side.writable.is_set() or flood.left.is_set())
        assert flood.written < flood.COUNT
        fields, body = await client.answer(1)
        assert fields["grpc-status"] == "0"
        assert len(body) == flood.COUNT * 100_005
        assert flood.written == flood.COUNT

    async def test_what_a_slow_reader_has_not_read_is_bounded(self, flooded):
        _, client, flood = flooded
        flood.turns = 0
        await client.until(Frame.HEADERS, 1)
        assert flood.written < flood.COUNT

    async def test_a_slow_reader_that_leaves(self, flooded):
        made, client, flood = flooded
        await client.until(Frame.HEADERS, 1)
        (server_side,) = made.clients
        await turns(lambda: not server_side.writable.is_set())
        client.writer.transport.abort()
        await soon(flood.left)
        await gone(made)
        assert flood.written < flood.COUNT

    async def test_a_slow_reader_is_cut_as_well(self, flooded):
        made, client, flood = flooded
        await client.until(Frame.HEADERS, 1)
        (server_side,) = made.clients
        await turns(lambda: not server_side.writable.is_set())
        await made.stop(0)
        assert flood.left.is_set()
        assert flood.written < flood.COUNT

    async def test_a_slow_reader_that_breaks_the_rules_is_gone(self, flooded, monkeypatch):
        monkeypatch.setattr(server_module, "CLOSING_S", 0.02)
        made, client, _ = flooded
        await client.until(Frame.HEADERS, 1)
        (server_side,) = made.clients
        await turns(lambda: not server_side.writable.is_set())
        server_side.connection.fail(Error.PROTOCOL_ERROR, "by hand")
        server_side.flush()
        await gone(made)


class TestStop:
    async def test_it_takes_no_more_connections(self, serve, raw):
        made, address = await serve()
        await (await raw(address)).ping()
        await made.stop(0)
        with pytest.raises(ConnectionError):
            await raw(address)

    async def test_idle_connections_are_closed_at_once(self, serve, raw):
        made, address = await serve()
        clients = [await raw(address) for _ in range(2)]
        for client in clients:
            await client.ping()
        async with asyncio.timeout(WAIT_S):
            await made.stop(10 * WAIT_S)
        for client in clients:
            assert {each[0] for each in await client.ended()} == {Frame.GOAWAY}
        assert not made.clients

    async def test_within_the_grace_open_calls_are_answered(self, serve, dial):
        held = Held()
        made, address = await serve(Hold=unary(held))
        call = (await dial(address)).unary_unary("/s/Hold")(b"x")
        await soon(held.entered)
        stopping = asyncio.ensure_future(made.stop(WAIT_S))
        held.release.set()
        assert await call == b"x"
        await stopping
        assert not made.clients

    async def test_within_the_grace_newcomers_are_refused_unseen(self, serve, raw):
        held = Held()
        made, address = await serve(Hold=unary(held))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"x")
        await soon(held.entered)
        stopping = asyncio.ensure_future(made.stop(WAIT_S))
        await client.until(Frame.GOAWAY)
        client.open(3, "Hold")
        client.send(3, b"x")
        assert await client.answer(3) == ({}, Error.REFUSED_STREAM)
        held.release.set()
        assert (await client.answer(1))[1] == b"\0\0\0\0\1x"
        assert [each[0] for each in await client.ended()] == [Frame.GOAWAY]
        await stopping

    @pytest.mark.parametrize("grace_s", [0, 0.02])
    async def test_after_the_grace_open_calls_are_cut(self, serve, dial, grace_s):
        held = Held()
        made, address = await serve(Hold=unary(held), Echo=unary(echo))
        channel = await dial(address)
        call = channel.unary_unary("/s/Hold")(b"x")
        await soon(held.entered)
        await made.stop(grace_s)
        assert held.cancelled.is_set()
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in error.details()
        await gone(made)

    async def test_calls_whose_message_has_not_come_are_cut(self, serve, raw):
        made, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        await client.ping()
        await made.stop(0)
        assert (await client.answer(1))[0]["grpc-status"] == "14"
        await gone(made)

    async def test_a_client_that_has_not_greeted_is_closed(self, serve, raw):
        made, address = await serve()
        client = await raw(address, greet=False)
        await client.until(Frame.SETTINGS)
        await made.stop(WAIT_S)
        await client.ended()
        assert not made.clients
