"""An exception in a callback ends its connection alone; nothing hangs, and nothing stays charged."""

import asyncio

import grpc
import pytest
from raw_http2 import WAIT_S, BlockedHandler, all_closed, echo, soon, unary, until

from batcher.buffers import Buffers
from batcher.http2.call import Call
from batcher.http2.counters import EndReason
from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.frames import END_STREAM, Frame, Setting, frame
from batcher.http2.server_connection import ServerConnection

EVERYWHERE = [
    (Connection, "receive"),
    (Connection, "data_to_send"),
    (Connection, "send_all"),
    (Connection, "send_trailers"),
    (Connection, "consume"),
    (Connection, "allow"),
    (Connection, "release"),
    (Connection, "discard_outbox"),
    (Call, "__init__"),
    (Call, "data_received"),
    (Call, "request_ended"),
    (Call, "drained"),
    (Call, "cancel"),
    (Call, "end"),
    (Call, "sweep_receiving"),
    (Call, "sweep_sending"),
    (Call, "_close"),
    (Call, "_expire"),
    (Call, "_release_everything"),
    (Call, "_start"),
    (ServerConnection, "_open_call"),
    (ServerConnection, "call_ended"),
    (ServerConnection, "flush_soon"),
    (ServerConnection, "answer_ready"),
    (ServerConnection, "charge_unsent"),
    (ServerConnection, "_sweep_idle"),
    (ServerConnection, "_drop_calls"),
    (ServerConnection, "send_initial_goaway"),
    (ServerConnection, "send_final_goaway"),
    (Buffers, "reserve"),
    (Buffers, "release"),
]


class Raises:
    """A method that raises each time, while it is armed."""

    def __init__(self, method):
        self.method = method
        self.armed = False
        self.count = 0

    def __get__(self, instance, _):
        def call(*arguments, **named):
            if self.armed:
                self.count += 1
                raise ZeroDivisionError
            return self.method(instance, *arguments, **named)

        return call


@pytest.fixture
async def serve(serve, problems):
    """As in conftest, but errors that a test causes on purpose may reach the event loop."""
    yield serve
    problems.clear()


async def use(client, server):
    """Make calls of every kind, with resets, timeouts, and small windows."""
    for number in (1, 3):
        client.open(number, "Hold")
        client.send(number, b"x")
    client.open(5, "Echo", ("grpc-timeout", "1m"))
    client.open(7, "Read")
    client.send(7, b"one", b"two", flags=0)
    client.open(9, "Echo")
    client.write(frame(Frame.DATA, 0, 9, b"\0" + (190_000).to_bytes(4, "big") + bytes(100)))
    client.open(11, "Echo")
    client.send(11, bytes(2000))
    client.open(13, "Echo")
    client.send(13, b"small")
    client.reset(3)
    client.write(frame(Frame.PING, 0, 0, b"12345678"))
    for _ in range(20):
        await asyncio.sleep(0)
    server.sweep(10**9)
    client.window_update(11, 5000)
    client.write(frame(Frame.DATA, END_STREAM, 1, b"late"))


@pytest.mark.parametrize(
    ("kind", "name"), EVERYWHERE, ids=lambda each: getattr(each, "__name__", each)
)
async def test_one_connection_ends_and_others_go_on(serve, raw, monkeypatch, kind, name):
    blocked = BlockedHandler()

    async def read(requests, context):
        return b"".join([each async for each in requests])

    server, address = await serve(
        Hold=unary(blocked), Echo=unary(echo), Read=grpc.stream_unary_rpc_method_handler(read)
    )
    raises = Raises(getattr(kind, name))
    monkeypatch.setattr(kind, name, raises)
    broken = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 1000))
    await broken.ping()
    raises.armed = True
    await use(broken, server)
    raises.armed = False
    other = await raw(address)
    other.open(1, "Echo")
    other.send(1, b"fine")
    assert (await other.answer(1))[1] == b"\0\0\0\0\4fine"
    blocked.release.set()
    broken.writer.transport.abort()
    other.writer.transport.abort()
    await all_closed(server)
    async with asyncio.timeout(WAIT_S):
        await server.stop(0)
    await until(lambda: not [each for each in asyncio.all_tasks() if "Call._run" in repr(each)])
    if kind is not Buffers and name not in {
        "_close",
        "_release_everything",
    }:  # those release themselves
        await until(lambda: server.buffers.used == 0)


async def test_an_internal_error_is_counted_and_logged(serve, raw, monkeypatch, caplog):
    server, address = await serve(Echo=unary(echo))
    raises = Raises(Connection.receive)
    monkeypatch.setattr(Connection, "receive", raises)
    client = await raw(address)
    await client.ping()
    raises.armed = True
    client.write(frame(Frame.PING, 0, 0, b"12345678"))
    await client.ended()
    assert server.counters.ended[EndReason.INTERNAL] == 1
    assert "internal error" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    await until(lambda: server.buffers.used == 0)


async def test_calls_of_a_failed_connection_end_and_release_everything(serve, raw, monkeypatch):
    blocked = BlockedHandler()
    server, address = await serve(Hold=unary(blocked), Echo=unary(echo))
    client = await raw(address)
    client.open(1, "Hold")
    client.send(1, b"x")
    client.open(3, "Echo")
    client.write(frame(Frame.DATA, 0, 3, b"\0" + (190_000).to_bytes(4, "big") + bytes(100)))
    await soon(blocked.entered)
    await client.ping()
    raises = Raises(Connection.receive)
    monkeypatch.setattr(Connection, "receive", raises)
    raises.armed = True
    client.write(frame(Frame.PING, 0, 0, b"12345678"))
    await soon(blocked.cancelled)
    await all_closed(server)
    await until(lambda: server.buffers.used == 0)
