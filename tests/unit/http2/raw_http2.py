"""Clients that write frames one by one, and handlers of servers, for the tests of this folder."""

import asyncio
import struct

import grpc
import pytest
from grpc import aio
from hpack import Decoder

from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.fields import Request, header_list_size
from batcher.http2.sansio.frames import ACK, END_HEADERS, END_STREAM, PREFACE, Error, Frame, frame
from batcher.http2.sansio.hpack import encode
from batcher.http2.sansio.streams import Limits

LIMITS = Limits(max_streams=4, max_headers=1000, stream_window=100_000)
HEADERS = ((":method", "POST"), (":scheme", "http"), (":path", "/s/M"))
REQUEST = encode(HEADERS)
RESPONSE_HEADERS = encode(((":status", "200"),))
TRAILERS = encode((("grpc-status", "0"),))

WAIT_S = 10
"""Seconds after which a wait fails, so that no test hangs."""
MAX_MESSAGE = 200_000
LIMIT = 1_000_000
"""Of `Buffers`, in tests of it: room for five large messages."""
EXHAUSTED = str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])


def frames(data):
    """The frames in bytes, as `(type, flags, stream, payload)`."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", data, 3)
        assert len(data) >= 9 + size
        found.append((Frame(kind), flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def numbers(*each):
    return b"".join(number.to_bytes(4, "big") for number in each)


def settings(*pairs):
    return frame(Frame.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in pairs))


def window_update(stream, more):
    return frame(Frame.WINDOW_UPDATE, 0, stream, numbers(more))


def opening(stream, flags=0, block=REQUEST):
    return frame(Frame.HEADERS, END_HEADERS | flags, stream, block)


def data(stream, payload, flags=0):
    return frame(Frame.DATA, flags, stream, payload)


def reset(stream, error=Error.CANCEL):
    return frame(Frame.RST_STREAM, 0, stream, numbers(error))


def goaway(last, error=Error.NO_ERROR, text=""):
    return (Frame.GOAWAY, 0, 0, numbers(last, error) + text.encode())


def request(headers=HEADERS, length=None):
    """The request that a block of these fields opens."""
    return Request(headers, header_list_size(headers), length)


class Harness:
    """A connection that has received the client's preface, with methods to play the client."""

    def __init__(self, *pairs, limits=LIMITS):
        self.connection = Connection(limits)
        self.server_preface = frames(self.connection.data_to_send())
        assert self.receive(PREFACE, settings(*pairs)) == []
        assert self.written() == [(Frame.SETTINGS, ACK, 0, b"")]

    def receive(self, *pieces):
        return self.connection.receive(b"".join(pieces))

    def written(self):
        return frames(self.connection.data_to_send())

    def open(self, number=1, flags=END_STREAM):
        return self.receive(opening(number, flags))[0].stream

    def answer(self, stream, body):
        self.connection.send_headers(stream, RESPONSE_HEADERS)
        self.connection.send_data(stream, body)
        self.connection.send_trailers(stream, TRAILERS)

    def granted(self, number):
        return sum(
            int.from_bytes(payload, "big")
            for kind, _, stream, payload in self.written()
            if (kind, stream) == (Frame.WINDOW_UPDATE, number)
        )

    def failed(self, last=0):
        """The error that the connection ended with; checks that nothing is read after it."""
        (kind, _, _, payload) = self.written()[-1]
        assert kind is Frame.GOAWAY
        assert payload[:4] == numbers(last)
        assert self.connection.closing
        assert self.receive(opening(99)) == []
        assert self.written() == []
        return Error(int.from_bytes(payload[4:8], "big"))


def prefixed(body, compressed=b"\0"):
    """A message behind its prefix."""
    return compressed + len(body).to_bytes(4, "big") + body


class Handlers(grpc.GenericRpcHandler):
    """Methods by name: `/s/NAME`."""

    def __init__(self, methods):
        self._methods = methods

    def service(self, details):
        return self._methods.get(details.method.removeprefix("/s/"))


class RawClient:
    """A client that writes and reads frames of one connection."""

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
            (":scheme", "http"),
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

    def window_update(self, number, more):
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
        """The next frame of a kind; frames before it are skipped."""
        while found := await self.frame():
            if found[0] is kind and number in {None, found[2]}:
                return found
        raise AssertionError(f"the connection ended before {kind!r}")

    async def answer(self, number):
        """The fields and the body of a complete answer, or of what came before a reset."""
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
        """The remaining frames, when the server has closed the connection."""
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


class BlockedHandler:
    """A handler that waits until it is released or cancelled."""

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
    """A handler that writes more than sockets buffer."""

    COUNT = 300

    def __init__(self):
        self.iterations = 1
        """Iterations of the event loop between two messages."""
        self.written = 0
        self.left = asyncio.Event()

    async def __call__(self, request, context):
        try:
            for _ in range(self.COUNT):
                await context.write(bytes(100_000))
                self.written += 1
                for _ in range(self.iterations):
                    await asyncio.sleep(0)
        finally:
            self.left.set()


async def soon(event):
    async with asyncio.timeout(WAIT_S):
        await event.wait()


async def until(condition):
    """Run the event loop until the condition is true."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # no event is set for it
            await asyncio.sleep(0)


async def all_closed(server):
    """Wait until the server has no connection."""
    await until(lambda: not server.connections)
