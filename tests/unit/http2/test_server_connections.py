"""Connections of a real server on loopback, and how it stops."""

import asyncio
import itertools
import socket

import grpc
import pytest
from raw_http2 import (
    WAIT_S,
    BlockedHandler,
    Flood,
    all_closed,
    echo,
    numbers,
    refusal,
    soon,
    unary,
    until,
)

from batcher.clock import MILLISECOND, SECOND
from batcher.http2 import paced_reading
from batcher.http2 import server_connection as connection_module
from batcher.http2.sansio.budget import FRAMES_PER_SECOND
from batcher.http2.sansio.frames import ACK, PREFACE, Error, Frame, Setting, frame
from batcher.http2.server_connection import MAX_DISCARDED_BYTES
from batcher.http2.socket_options import DEAD_PEER_S


class TestConnections:
    async def test_a_call_beyond_max_connections_is_refused_with_goaway(self, serve, raw):
        server, address = await serve({"max_connections": 1}, Echo=unary(echo))
        first = await raw(address)
        await first.ping()
        second = await raw(address)
        second.open(1, "Echo")
        second.send(1, b"x")
        fields, _ = await second.answer(1)
        assert fields["grpc-status"] == str(grpc.StatusCode.UNAVAILABLE.value[0])
        assert "server.max_connections" in fields["grpc-message"]
        assert Frame.GOAWAY in {each[0] for each in await second.ended()}
        await first.ping()
        first.writer.close()
        await all_closed(server)
        await (await raw(address)).ping()

    async def test_max_connections_is_for_each_listener(self, serve, raw):
        server, address = await serve({"max_connections": 1}, Echo=unary(echo))
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        await server.listen(sock, None)
        for each in (address, f"127.0.0.1:{port}"):
            await (await raw(each)).ping()

    @pytest.mark.parametrize("sent", [b"", PREFACE[:10], PREFACE + bytes(3)])
    async def test_a_client_without_a_preface_is_disconnected(self, serve, raw, monkeypatch, sent):
        monkeypatch.setattr(connection_module, "PREFACE_TIMEOUT_S", 0.02)
        server, address = await serve()
        silent = await raw(address, preface=False)
        silent.write(sent)
        await silent.ended()
        await all_closed(server)

    async def test_a_client_may_be_silent_after_its_preface(self, serve, raw, monkeypatch):
        monkeypatch.setattr(connection_module, "PREFACE_TIMEOUT_S", 0.02)
        _, address = await serve()
        client = await raw(address)
        await client.ping()
        await (await raw(address, preface=False)).ended()
        await client.ping()

    @pytest.mark.parametrize("bytes_", [1, 7, 100])
    async def test_many_bytes_at_once_are_read_in_pieces(self, serve, raw, monkeypatch, bytes_):
        for module in (connection_module, paced_reading):
            monkeypatch.setattr(module, "PIECE_BYTES", bytes_)
        monkeypatch.setattr(paced_reading, "MAX_READ_NS", -1)
        _, address = await serve(Echo=unary(echo))
        client = await raw(address)
        for number in range(1, 40, 2):
            client.open(number, "Echo")
            client.send(number, b"%d" % number)
        for number in range(1, 40, 2):
            assert (await client.answer(number))[1][5:] == b"%d" % number

    async def test_a_client_may_disconnect_between_two_pieces(self, serve, raw, monkeypatch):
        for module in (connection_module, paced_reading):
            monkeypatch.setattr(module, "PIECE_BYTES", 1)
        monkeypatch.setattr(paced_reading, "MAX_READ_NS", -1)
        server, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        client.send(1, b"one")
        client.writer.close()
        await all_closed(server)

    async def test_a_client_of_another_protocol_gets_the_reason(self, serve, raw):
        server, address = await serve()
        client = await raw(address, preface=False)
        client.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        (*_, last) = await client.ended()
        assert last[0] is Frame.GOAWAY
        assert last[3].endswith(b"this port speaks gRPC over HTTP/2 only")
        await all_closed(server)

    async def test_a_client_that_breaks_the_rules_loses_its_calls(self, serve, raw):
        blocked = BlockedHandler()
        server, address = await serve(Hold=unary(blocked))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"")
        await soon(blocked.entered)
        client.window_update(0, 0)
        (*_, last) = await client.ended()
        assert last[0] is Frame.GOAWAY
        await soon(blocked.cancelled)
        await all_closed(server)

    async def test_frames_may_come_byte_by_byte(self, serve, raw):
        _, address = await serve(Echo=unary(echo))
        client = await raw(address, preface=False)
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
        server, address = await serve(Flood=grpc.unary_stream_rpc_method_handler(flood))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 2**26), limit=2**16)
        client.window_update(0, 2**26)
        client.open(1, "Flood")
        client.send(1, b"")
        return server, client, flood

    @pytest.mark.slow
    async def test_a_slow_reader_is_waited_for(self, flooded):
        server, client, flood = flooded
        await client.until(Frame.HEADERS, 1)
        (server_side,) = server.connections
        await until(lambda: not server_side.writable.is_set() or flood.left.is_set())
        assert flood.written < flood.COUNT
        fields, body = await client.answer(1)
        assert fields["grpc-status"] == "0"
        assert len(body) == flood.COUNT * 100_005
        assert flood.written == flood.COUNT

    async def test_bytes_for_a_slow_reader_are_bounded(self, flooded):
        _, client, flood = flooded
        flood.iterations = 0
        await client.until(Frame.HEADERS, 1)
        assert flood.written < flood.COUNT

    async def test_a_slow_reader_may_disconnect(self, flooded):
        server, client, flood = flooded
        await client.until(Frame.HEADERS, 1)
        (server_side,) = server.connections
        await until(lambda: not server_side.writable.is_set())
        client.writer.transport.abort()
        await soon(flood.left)
        await all_closed(server)
        assert flood.written < flood.COUNT

    async def test_a_slow_reader_is_aborted_at_shutdown(self, flooded):
        server, client, flood = flooded
        await client.until(Frame.HEADERS, 1)
        (server_side,) = server.connections
        await until(lambda: not server_side.writable.is_set())
        await server.stop(0)
        assert flood.left.is_set()
        assert flood.written < flood.COUNT

    async def test_a_slow_reader_that_breaks_a_rule_is_aborted(self, flooded, monkeypatch):
        monkeypatch.setattr(connection_module, "LINGER_S", 0.02)
        server, client, _ = flooded
        await client.until(Frame.HEADERS, 1)
        (server_side,) = server.connections
        await until(lambda: not server_side.writable.is_set())
        server_side.http2.close(Error.PROTOCOL_ERROR, "by hand")
        server_side.flush()
        await all_closed(server)

    async def test_calls_of_a_client_that_breaks_a_rule_are_cancelled(
        self, serve, raw, monkeypatch
    ):
        monkeypatch.setattr(connection_module, "LINGER_S", WAIT_S)
        blocked = BlockedHandler()
        _, address = await serve(Hold=unary(blocked))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"")
        await client.ping()
        client.write(frame(Frame.PING, 0, 0, b"short"))
        await soon(blocked.cancelled)

    async def test_a_flood_that_goes_on_is_aborted(self, serve, raw, monkeypatch):
        monkeypatch.setattr(connection_module, "LINGER_S", WAIT_S)
        server, address = await serve()
        client = await raw(address)
        client.write(frame(Frame.PING, 0, 0, bytes(8)) * (2 * FRAMES_PER_SECOND))
        assert (await client.until(Frame.GOAWAY))[3][4:8] == numbers(Error.ENHANCE_YOUR_CALM)
        client.write(bytes(100 * MAX_DISCARDED_BYTES))
        await all_closed(server)

    async def test_the_kernel_detects_dead_peers(self, serve, raw):
        server, address = await serve(Echo=unary(echo))
        await (await raw(address)).ping()
        (client,) = server.connections
        sock = client._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * DEAD_PEER_S


class TestAnswersOfOneIteration:
    """Calls whose answers are ready together, like those of a batch."""

    CALLS = 10

    @pytest.fixture
    async def written(self, serve, raw, monkeypatch):
        """Let all calls go; returns how many were answered when each write was made."""
        blocked, answered, counts = BlockedHandler(), [], []

        async def answer(request, context):
            await blocked(request, context)
            answered.append(request)
            return request

        async def let_go(company_ns):
            monkeypatch.setattr(connection_module, "COALESCE_NS", company_ns)
            server, address = await serve(Hold=unary(answer))
            client = await raw(address)
            for number in range(1, 2 * self.CALLS, 2):
                client.open(number, "Hold")
                client.send(number, b"")
            await client.ping()
            (server_side,) = server.connections
            write = server_side._transport.write

            class Watched:
                def write(self, data):
                    counts.append(len(answered))
                    write(data)

                def __getattr__(self, name):
                    return getattr(transport, name)

            transport, server_side._transport = server_side._transport, Watched()
            blocked.release.set()
            await client.answer(2 * self.CALLS - 1)
            return counts

        return let_go

    async def test_they_are_written_together(self, written):
        assert await written(60 * SECOND) == [self.CALLS]

    async def test_the_first_are_written_before_the_last_are_ready(self, written):
        """Each but the first of a write finds that one has waited for long enough."""
        assert await written(0) == list(range(2, self.CALLS + 1, 2))

    async def test_the_wait_counts_from_the_first_answer_of_a_write(self, written, monkeypatch):
        moments = itertools.count(MILLISECOND, 150_000)
        monkeypatch.setattr(connection_module, "monotonic_ns", lambda: next(moments))
        assert await written(200_000) == [3, 6, 9, 10]


class TestStop:
    async def test_it_accepts_no_more_connections(self, serve, raw):
        server, address = await serve()
        await (await raw(address)).ping()
        await server.stop(0)
        with pytest.raises(ConnectionError):
            await raw(address)

    async def test_idle_connections_are_closed_at_once(self, serve, raw):
        server, address = await serve()
        clients = [await raw(address) for _ in range(2)]
        for client in clients:
            await client.ping()
        async with asyncio.timeout(WAIT_S):
            await server.stop(10 * WAIT_S)
        for client in clients:
            assert {each[0] for each in await client.ended()} == {Frame.GOAWAY, Frame.PING}
        assert not server.connections

    async def test_within_the_grace_open_calls_are_answered(self, serve, dial):
        blocked = BlockedHandler()
        server, address = await serve(Hold=unary(blocked))
        call = (await dial(address)).unary_unary("/s/Hold")(b"x")
        await soon(blocked.entered)
        stopping = asyncio.ensure_future(server.stop(WAIT_S))
        blocked.release.set()
        assert await call == b"x"
        await stopping
        assert not server.connections

    async def test_within_the_grace_new_calls_are_refused(self, serve, raw):
        blocked = BlockedHandler()
        server, address = await serve(Hold=unary(blocked), Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"x")
        await soon(blocked.entered)
        stopping = asyncio.ensure_future(server.stop(WAIT_S))
        await client.until(Frame.GOAWAY)
        (*_, ping) = await client.until(Frame.PING)
        client.open(3, "Echo")  # on its way when the GOAWAY was sent
        client.send(3, b"y")
        assert (await client.answer(3))[1] == b"\0\0\0\0\1y"
        client.write(frame(Frame.PING, ACK, 0, ping))
        client.open(5, "Echo")
        client.send(5, b"z")
        assert await client.answer(5) == ({}, Error.REFUSED_STREAM)
        blocked.release.set()
        assert (await client.answer(1))[1] == b"\0\0\0\0\1x"
        assert [each[0] for each in await client.ended()] == [Frame.GOAWAY]
        await stopping

    @pytest.mark.parametrize("grace_s", [0, 0.02])
    async def test_after_the_grace_open_calls_are_aborted(self, serve, dial, grace_s):
        blocked = BlockedHandler()
        server, address = await serve(Hold=unary(blocked), Echo=unary(echo))
        channel = await dial(address)
        call = channel.unary_unary("/s/Hold")(b"x")
        await soon(blocked.entered)
        await server.stop(grace_s)
        assert blocked.cancelled.is_set()
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in error.details()
        await all_closed(server)

    async def test_calls_whose_message_has_not_come_are_aborted(self, serve, raw):
        server, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        await client.ping()
        await server.stop(0)
        assert (await client.answer(1))[0]["grpc-status"] == "14"
        await all_closed(server)

    async def test_what_has_connected_just_before_is_answered(self, serve, raw):
        """Neither was its connection accepted, nor has its preface come."""
        server, address = await serve(Echo=unary(echo))
        silent = await raw(address, preface=False)
        await silent.until(Frame.SETTINGS)
        host, port = address.split(":")
        sock = socket.create_connection((host, int(port)))
        server.send_goaway()
        waiting = await raw(None, preface=False, sock=sock)
        with pytest.raises(ConnectionError):
            await raw(address)
        for client in (silent, waiting):
            await client.until(Frame.GOAWAY)
            client.write(PREFACE, client.settings())
            client.open(1, "Echo")
            client.send(1, b"x")
            assert (await client.answer(1))[1] == b"\0\0\0\0\1x"
        await server.stop(WAIT_S)
        assert not server.connections

    async def test_of_what_has_connected_only_what_has_room_is_accepted(self, serve, raw):
        """Clients that connect without end would keep the server from ending."""
        server, address = await serve({"max_connections": 2})
        first = await raw(address)
        host, port = address.split(":")
        socks = [socket.create_connection((host, int(port))) for _ in range(8)]
        server.send_goaway()
        assert len(server.connections) == 2
        await first.until(Frame.GOAWAY)
        await server.stop(WAIT_S)
        for sock in socks:
            sock.close()

    async def test_calls_that_come_without_acknowledging_goaway_may_be_made_elsewhere(
        self, serve, raw
    ):
        server, address = await serve(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        await client.ping()
        server.send_goaway()
        await server.goaway_acknowledged(WAIT_S)
        assert server.receiving == 1
        client.open(3, "Echo")
        client.send(3, b"y")
        assert await client.answer(3) == ({}, Error.REFUSED_STREAM)
        client.send(1, b"x")
        await server.all_received()
        assert (await client.answer(1))[1] == b"\0\0\0\0\1x"

    async def test_a_connection_without_a_preface_is_closed(self, serve, raw):
        server, address = await serve()
        client = await raw(address, preface=False)
        await client.until(Frame.SETTINGS)
        await server.stop(WAIT_S)
        await client.ended()
        assert not server.connections
