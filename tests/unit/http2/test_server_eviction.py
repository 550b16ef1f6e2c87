"""Where buffers are full, the connection that has most of them loses calls to others."""

import grpc
import pytest
from raw_http2 import EXHAUSTED, BlockedHandler, echo, prefixed, unary, until

from batcher.buffers import Buffers
from batcher.http2.sansio.frames import END_STREAM, Frame, Setting, frame
from batcher.http2.server_connection import CALL_BYTES


class TestEviction:
    """One connection fills the buffers with calls of one kind, and another makes calls."""

    @pytest.fixture
    async def full(self, serve, raw):
        blocked = BlockedHandler()

        async def large(request, context):
            return bytes(30_000)

        async def read(requests, context):
            return await blocked(b"", context)

        server, address = await serve(
            {"buffers": Buffers(100_000), "max_streams": 200},
            Echo=unary(echo),
            Hold=unary(blocked),
            Large=unary(large),
            Read=grpc.stream_unary_rpc_method_handler(read),
        )
        greedy = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 0))

        async def fill(path, body, flags=0):
            number = 1
            while server.buffers.refused == 0:
                greedy.open(number, path)
                greedy.write(frame(Frame.DATA, flags, number, body))
                await greedy.ping()
                number += 2
            for _ in range(100_000 // CALL_BYTES):
                greedy.open(number, path)
                await greedy.ping()
                number += 2
            assert server.buffers.used > 100_000 - 2 * CALL_BYTES

        return server, fill, greedy, await raw(address)

    @pytest.mark.parametrize(
        ("path", "body", "flags"),
        [
            ("Echo", prefixed(bytes(16_000))[:9000], 0),
            ("Echo", b"", 0),
            ("Read", prefixed(bytes(9000)), 0),
            ("Read", b"", 0),
            ("Hold", prefixed(bytes(9000)), END_STREAM),
            ("Large", prefixed(b""), END_STREAM),
        ],
    )
    async def test_calls_of_others_find_room(self, full, empty, path, body, flags):
        server, fill, greedy, other = full
        await fill(path, body, flags)
        for number in range(1, 21, 2):
            other.open(number, "Echo")
            other.send(number, bytes(1000))
            fields, _ = await other.answer(number)
            assert fields["grpc-status"] == "0"
        greedy.writer.transport.abort()
        await until(lambda: len(server.connections) == 1)
        await empty(server)

    async def test_a_connection_with_a_small_part_is_not_evicted(self, full):
        server, fill, _, other = full
        assert server.buffers.reserve(90_000)
        await fill("Echo", b"")
        calls = [call for client in server.connections for call in client.calls.values()]
        other.open(1, "Echo")
        other.send(1, bytes(1000))
        fields, _ = await other.answer(1)
        assert fields["grpc-status"] == EXHAUSTED
        assert [call for client in server.connections for call in client.calls.values()] == calls
        server.buffers.release(90_000)
