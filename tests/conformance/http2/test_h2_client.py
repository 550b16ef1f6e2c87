"""Calls of the transport `builtin` by a client that is built on `h2`."""

import asyncio
import gzip
import socket

import grpc
import pytest

from batcher.buffers import Buffers
from batcher.http2.sansio.frames import END_STREAM, Frame, frame
from batcher.http2.server import Server
from batcher.http2.timeouts import Timeouts

connection_of_h2 = pytest.importorskip("h2.connection")
config = pytest.importorskip("h2.config")
events = pytest.importorskip("h2.events")
codes = pytest.importorskip("h2.errors").ErrorCodes
h2_settings = pytest.importorskip("h2.settings")

pytestmark = pytest.mark.conformance

WAIT_S = 30
MAX_HEADERS = 16_384


class Answer:
    """What a call has received so far."""

    def __init__(self):
        self.headers = {}
        self.body = bytearray()
        self.reset = None
        self.done = asyncio.Event()

    @property
    def messages(self):
        found, body = [], bytes(self.body)
        while body:
            size = int.from_bytes(body[1:5], "big")
            found.append(body[5 : 5 + size])
            body = body[5 + size :]
        return found


def frame_size(data):
    """The bytes of the first frame; 0 where it is incomplete."""
    size = 9 + int.from_bytes(data[:3], "big")
    return size if 9 <= size <= len(data) else 0


class Client:
    """One connection."""

    def __init__(self, reader, writer, **more):
        self.reader, self.writer = reader, writer
        self.http = connection_of_h2.H2Connection(
            config.H2Configuration(client_side=True, header_encoding="utf-8", **more)
        )
        self.answers = {}
        self.widened = asyncio.Event()
        self.settled = asyncio.Event()
        self.pong = asyncio.Event()
        self.goodbyes = []
        self.goaway_received = asyncio.Event()
        self.rest = b""
        """The beginning of a frame; after a GOAWAY all that comes, as `h2` reads and sends nothing then."""
        self.ended = asyncio.Event()

    async def send_preface(self, **settings):
        self.http.local_settings = h2_settings.Settings(
            client=True,
            initial_values={h2_settings.SettingCodes[key]: each for key, each in settings.items()},
        )
        self.http.initiate_connection()
        self.flush()
        self.task = asyncio.ensure_future(self.read())
        await self.settled.wait()

    def flush(self):
        self.writer.write(self.http.data_to_send())

    async def read(self):
        try:
            while data := await self.reader.read(65_536):
                self.rest += data
                while not self.goodbyes and (size := frame_size(self.rest)):
                    whole, self.rest = self.rest[:size], self.rest[size:]
                    for event in self.http.receive_data(whole):
                        self.on(event)
                self.flush()
        except ConnectionError:
            pass
        finally:
            self.writer.close()
            self.ended.set()
            for answer in self.answers.values():
                answer.done.set()

    def on(self, event):
        answer = self.answers.get(getattr(event, "stream_id", None))
        match event:
            case events.RemoteSettingsChanged():
                self.settled.set()
            case events.ResponseReceived() | events.TrailersReceived():
                answer.headers.update(event.headers)
            case events.DataReceived():
                answer.body += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case events.StreamEnded():
                answer.done.set()
            case events.StreamReset():
                answer.reset = event.error_code
                answer.done.set()
            case events.WindowUpdated():
                self.widened.set()
            case events.PingAckReceived():
                self.pong.set()
            case events.ConnectionTerminated():
                self.goodbyes.append((event.error_code, event.last_stream_id))
                self.goaway_received.set()

    def open(self, path, *metadata, end=False):
        number = self.http.get_next_available_stream_id()
        self.answers[number] = Answer()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/s/{path}"),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *metadata,
        ]
        self.http.send_headers(number, fields, end_stream=end)
        self.flush()
        return number

    async def send(self, number, *messages, compressed=0, end=True, pad=None):
        body = memoryview(
            b"".join(bytes([compressed]) + len(each).to_bytes(4, "big") + each for each in messages)
        )
        while body:
            room = min(
                self.http.local_flow_control_window(number) - (1 + (pad or 0)),
                self.http.max_outbound_frame_size - (1 + (pad or 0)),
            )
            if room <= 0:
                self.widened.clear()
                await self.widened.wait()
                continue
            self.http.send_data(number, bytes(body[:room]), pad_length=pad)
            body = body[room:]
            self.flush()
            await self.writer.drain()
        if end:
            self.http.end_stream(number)
            self.flush()

    async def ping(self):
        """Returns when the server has read all that was sent."""
        self.http.ping(b"12345678")
        self.flush()
        async with asyncio.timeout(WAIT_S):
            await self.pong.wait()

    async def answer(self, number):
        async with asyncio.timeout(WAIT_S):
            await self.answers[number].done.wait()
        return self.answers[number]

    async def call(self, path, message, *metadata, **more):
        number = self.open(path, *metadata)
        await self.send(number, message, **more)
        return await self.answer(number)


async def echo(request, context):
    return request


async def echo_all(requests, context):
    async for request in requests:
        yield request


async def wait(request, context):
    await asyncio.Event().wait()


METHODS = {
    "/s/Echo": grpc.unary_unary_rpc_method_handler(echo),
    "/s/Stream": grpc.stream_stream_rpc_method_handler(echo_all),
    "/s/Wait": grpc.unary_unary_rpc_method_handler(wait),
}


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method)


@pytest.fixture
async def dial():
    """Clients of a server with three methods: `await dial(SETTING=...)`."""
    server = Server(
        [Handlers()],
        max_message=2**26,
        max_streams=1000,
        max_connections=100,
        max_headers=MAX_HEADERS,
        buffers=Buffers(2**29),
        timeouts=Timeouts(),
    )
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await server.listen(sock, None)
    clients = []

    async def connect(**settings):
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        clients.append(client)
        await client.send_preface(**settings)
        return client

    connect.server = server
    yield connect
    for client in clients:
        client.writer.close()
        await client.task
    await server.stop(0)


def is_ok(answer, *messages):
    assert answer.headers.get("grpc-status") == "0", (answer.headers, answer.reset)
    assert answer.messages == list(messages)
    return True


async def test_consecutive_calls(dial):
    client = await dial()
    for number in range(200):
        message = b"%d" % number
        assert is_ok(await client.call("Echo", message, ("x-id", str(number))), message)


async def test_concurrent_calls(dial):
    client = await dial()
    found = await asyncio.gather(*(client.call("Echo", b"%d" % each) for each in range(1000)))
    assert all(is_ok(answer, b"%d" % each) for each, answer in enumerate(found))


@pytest.mark.parametrize("size", [0, 16_384, 2**20, 60_000_000])
async def test_messages_of_any_size(dial, size):
    client = await dial()
    assert is_ok(await client.call("Echo", bytes(size)), bytes(size))


@pytest.mark.parametrize(
    "settings",
    [
        {"INITIAL_WINDOW_SIZE": 300},
        {"INITIAL_WINDOW_SIZE": 1000, "MAX_FRAME_SIZE": 2**24 - 1},
        {"HEADER_TABLE_SIZE": 0},
        {"HEADER_TABLE_SIZE": 65_536},
    ],
)
async def test_clients_of_any_settings(dial, settings):
    client = await dial(**settings)
    for size in (0, 100, 3000):
        assert is_ok(await client.call("Echo", bytes(size)), bytes(size))


async def test_a_stream_of_messages(dial):
    client = await dial()
    number = client.open("Stream")
    for each in range(100):
        await client.send(number, b"%d" % each, end=each == 99)
    assert is_ok(await client.answer(number), *(b"%d" % each for each in range(100)))


async def test_padding_is_ignored(dial):
    client = await dial()
    assert is_ok(await client.call("Echo", bytes(300_000), pad=255), bytes(300_000))


async def test_compressed_messages_are_read(dial):
    client = await dial()
    sent = gzip.compress(b"hello")
    answer = await client.call("Echo", sent, ("grpc-encoding", "gzip"), compressed=1)
    assert is_ok(answer, b"hello")


async def test_a_call_ends_with_trailers_of_its_own(dial):
    client = await dial()
    number = client.open("Echo")
    await client.send(number, b"hello", end=False)
    client.http.send_headers(number, [("x-checksum", "1")], end_stream=True)
    client.flush()
    assert is_ok(await client.answer(number), b"hello")


async def test_a_cancelled_call_frees_its_place(dial):
    client = await dial()
    numbers = [client.open("Wait") for _ in range(1000)]
    for number in numbers:
        await client.send(number, b"")
    for number in numbers:
        client.http.reset_stream(number, codes.CANCEL)
    client.flush()
    # These stay: how many more may be cancelled depends on the seconds that have passed.
    for _ in range(999):
        await client.send(client.open("Wait"), b"")
    assert is_ok(await client.call("Echo", b"x"), b"x")
    assert not client.goodbyes


async def test_a_deadline_passes(dial):
    client = await dial()
    answer = await client.call("Wait", b"", ("grpc-timeout", "10m"))
    assert answer.headers["grpc-status"] == "4"


@pytest.mark.parametrize("size", [MAX_HEADERS, 50_000, 100_000])
async def test_metadata_over_the_limit_ends_one_call(dial, size):
    client = await dial()
    other = client.open("Stream")
    refused = await client.call("Echo", b"x", ("x-large", "v" * size))
    assert refused.headers["grpc-status"] == "8"
    await client.send(other, b"still here")
    assert is_ok(await client.answer(other), b"still here")


async def test_a_malformed_call_ends_alone(dial):
    client = await dial()
    client.http.config.validate_outbound_headers = False
    client.http.config.normalize_outbound_headers = False
    other = client.open("Stream")
    refused = await client.answer(client.open("Echo", ("Connection", "close")))
    assert refused.reset == codes.PROTOCOL_ERROR
    await client.send(other, b"still here")
    assert is_ok(await client.answer(other), b"still here")


async def test_pings_are_answered(dial):
    client = await dial()
    await client.ping()


async def test_open_calls_are_answered_after_goaway(dial):
    client = await dial()
    number = client.open("Stream")
    await client.send(number, b"first", end=False)
    await client.ping()
    stopping = asyncio.ensure_future(dial.server.stop(WAIT_S))
    async with asyncio.timeout(WAIT_S):
        await client.goaway_received.wait()
        last = b"\0" + (4).to_bytes(4, "big") + b"last"
        client.writer.write(frame(Frame.DATA, END_STREAM, number, last))
        await client.ended.wait()
    await stopping
    assert client.goodbyes[0][0] == codes.NO_ERROR
    assert last in client.rest
    assert b"grpc-status" in client.rest


async def test_a_connection_closes_after_the_clients_goaway(dial):
    client = await dial()
    assert is_ok(await client.call("Echo", b"x"), b"x")
    client.http.close_connection()
    client.flush()
    async with asyncio.timeout(WAIT_S):
        await client.ended.wait()
