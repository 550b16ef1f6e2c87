"""Time limits: tests call `sweep` instead of waiting."""

import asyncio

import grpc
import pytest
from raw_http2 import BlockedHandler, Flood, all_closed, echo, soon, unary, until

from batcher.clock import SECOND
from batcher.http2.connection_lifetime import EVICT_IDLE_NS, EVICT_SILENT_NS
from batcher.http2.counters import EndReason
from batcher.http2.sansio.frames import Frame, Setting, frame
from batcher.http2.sansio.hpack import encode
from batcher.http2.timeouts import PROGRESS_BYTES, StallTimer, Timeouts

TIMES = Timeouts(
    idle_ns=60 * SECOND,
    age_ns=600 * SECOND,
    age_grace_ns=30 * SECOND,
    receive_ns=20 * SECOND,
    write_ns=30 * SECOND,
)
DEADLINE = str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
UNAVAILABLE = str(grpc.StatusCode.UNAVAILABLE.value[0])


async def is_refused(client):
    """Check that a call is refused on a connection beyond `max_connections`."""
    client.open(1, "Echo")
    client.send(1, b"x")
    fields, _ = await client.answer(1)
    assert fields["grpc-status"] == UNAVAILABLE
    assert "server.max_connections" in fields["grpc-message"]
    await client.ended()


async def talk(requests, context):
    async for each in requests:
        await context.write(each)


class TestStallTimer:
    def test_without_progress_time_adds_up(self):
        stall = StallTimer()
        assert [stall.update(at, 2) for at in (0, 1, PROGRESS_BYTES - 1)] == [2, 4, 6]

    def test_progress_resets_it(self):
        stall = StallTimer()
        assert [stall.update(at, 2) for at in (0, PROGRESS_BYTES, PROGRESS_BYTES + 1)] == [2, 0, 2]

    def test_a_new_transfer_resets_it(self):
        stall = StallTimer(10)
        assert [stall.update(at, 2) for at in (10, 0)] == [2, 0]


@pytest.fixture
def timed(serve):
    """A server whose time passes when the test says so: `server, address, pass seconds`."""

    async def start(limits=None, **methods):
        server, address = await serve({"timeouts": TIMES} | (limits or {}), **methods)

        def wait(seconds):
            for _ in range(seconds):
                server.sweep(SECOND)

        return server, address, wait

    return start


class TestConnections:
    async def test_an_idle_connection_gets_goaway_and_is_closed(self, timed, raw):
        server, address, wait = await timed(Echo=unary(echo))
        client = await raw(address)
        await client.ping()
        wait(59)
        await client.ping()
        wait(1)
        await client.until(Frame.GOAWAY)
        client.open(1, "Echo")  # on its way when the GOAWAY was sent
        client.send(1, b"x")
        assert (await client.answer(1))[1] == b"\0\0\0\0\1x"
        wait(3)
        assert {each[0] for each in await client.ended()} == {Frame.GOAWAY}
        await all_closed(server)

    async def test_a_connection_with_calls_is_not_idle(self, timed, raw):
        blocked = BlockedHandler()
        _, address, wait = await timed(Hold=unary(blocked), Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"x")
        await soon(blocked.entered)
        wait(200)
        blocked.release.set()
        assert (await client.answer(1))[1] == b"\0\0\0\0\1x"
        wait(59)
        client.open(3, "Echo")
        client.send(3, b"x")
        await client.answer(3)
        wait(59)
        await client.ping()

    async def test_an_old_connection_gets_goaway_and_is_aborted_after_a_grace(
        self, timed, raw, monkeypatch
    ):
        monkeypatch.setattr("random.uniform", lambda least, most: most)
        blocked = BlockedHandler()
        server, address, wait = await timed(Hold=unary(blocked))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"x")
        await soon(blocked.entered)
        wait(659)
        await client.ping()
        wait(1)
        await client.until(Frame.GOAWAY)
        wait(29)
        await client.until(Frame.GOAWAY)
        assert not blocked.cancelled.is_set()
        wait(1)
        fields, _ = await client.answer(1)
        assert fields["grpc-status"] == str(grpc.StatusCode.UNAVAILABLE.value[0])
        assert "server.max_connection_age" in fields["grpc-message"]
        await client.ended()
        await all_closed(server)

    async def test_the_longest_idle_connection_is_closed_for_a_new_one(self, timed, raw):
        server, address, wait = await timed({"max_connections": 2}, Echo=unary(echo))
        first, second = await raw(address), await raw(address)
        for client in (first, second):
            await client.ping()
        wait(EVICT_IDLE_NS // SECOND - 1)
        await is_refused(await raw(address))
        wait(1)
        first.open(1, "Echo")
        first.send(1, b"x")
        await first.answer(1)
        wait(1)
        third = await raw(address)
        await third.ping()
        assert {each[0] for each in await second.ended()} == {Frame.GOAWAY}
        await first.ping()
        assert (server.counters.evicted, server.counters.ended[EndReason.TOO_MANY]) == (1, 1)
        assert server.counters.accepted == 3

    async def test_a_connection_with_unary_calls_is_not_closed_for_a_new_one(self, timed, raw):
        blocked = BlockedHandler()
        _, address, wait = await timed({"max_connections": 1}, Hold=unary(blocked))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, b"x")
        await soon(blocked.entered)
        wait(100)
        await is_refused(await raw(address))
        blocked.release.set()
        await client.answer(1)

    @pytest.mark.parametrize("others", [False, True])
    async def test_where_none_is_idle_the_longest_silent_is_closed(self, timed, raw, others):
        """`others`: a unary call waits for its answer on each connection."""
        blocked = BlockedHandler()
        server, address, wait = await timed(
            {"max_connections": 2},
            Talk=grpc.stream_stream_rpc_method_handler(talk),
            Hold=unary(blocked),
            Echo=unary(echo),
        )
        first, second = await raw(address), await raw(address)
        for client in (first, second):
            client.open(1, "Talk")
            if others:
                client.open(3, "Hold")
                client.send(3, b"x")
            await client.ping()
        wait(EVICT_SILENT_NS // SECOND)
        await is_refused(await raw(address))
        first.send(1, b"x", flags=0)
        await first.until(Frame.DATA, 1)
        wait(1)
        third = await raw(address)
        if others:
            await is_refused(third)
            blocked.release.set()
            return
        third.open(1, "Echo")
        third.send(1, b"x")
        assert (await third.answer(1))[1] == b"\0\0\0\0\1x"
        fields, _ = await second.answer(1)
        assert fields["grpc-status"] == UNAVAILABLE
        assert "server.max_connections" in fields["grpc-message"]
        await first.ping()
        assert server.counters.evicted == 1


class TestRequests:
    @pytest.mark.parametrize("whole", [False, True])
    async def test_headers_that_trickle_in_end_the_connection(self, timed, raw, whole):
        """In several frames, or as a frame that is not completed."""
        server, address, wait = await timed(Echo=unary(echo))
        client = await raw(address)
        block = encode((("x", "y" * 100),))
        begun = frame(Frame.HEADERS, 0, 1, block[:1]) if whole else b"\0\0\x64\1\0"
        client.write(begun)
        await client.writer.drain()
        (server_side,) = server.connections
        await until(lambda: server_side.http2.incomplete is not None)
        for at in range(20):
            client.write(frame(Frame.CONTINUATION, 0, 1, block[at : at + 1]) if whole else b"\0")
            await client.writer.drain()
            await asyncio.sleep(0)
            wait(1)
        wait(2)
        (*_, last) = await client.ended()
        assert last[0] is Frame.GOAWAY
        assert server.counters.ended[EndReason.HEADERS_TIMEOUT] == 1
        await all_closed(server)

    async def test_headers_that_are_complete_in_time(self, timed, raw):
        _, address, wait = await timed(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        for _ in range(5):
            client.write(frame(Frame.DATA, 0, 1, b""))
            await client.ping()
            wait(3)
        client.send(1, b"x")
        assert (await client.answer(1))[1] == b"\0\0\0\0\1x"

    @pytest.mark.parametrize("begun", [b"", b"\0\0\0\0\7abc"])
    async def test_a_message_that_does_not_come_ends_its_call(self, timed, raw, begun):
        server, address, wait = await timed(Echo=unary(echo))
        client = await raw(address)
        client.open(1, "Echo")
        client.write(frame(Frame.DATA, 0, 1, begun))
        await client.ping()
        wait(19)
        await client.ping()
        wait(2)
        fields, _ = await client.answer(1)
        assert fields["grpc-status"] == DEADLINE
        assert "server.receive_timeout" in fields["grpc-message"]
        await client.ping()
        assert server.counters.stalled_calls == 1

    async def test_a_message_of_a_stream_has_a_timeout_once_it_has_begun(self, timed, raw):
        async def count(requests, context):
            return str(len([each async for each in requests])).encode()

        _, address, wait = await timed(Count=grpc.stream_unary_rpc_method_handler(count))
        client = await raw(address)
        client.open(1, "Count")
        client.send(1, b"x", flags=0)
        await client.ping()
        wait(100)
        client.write(frame(Frame.DATA, 0, 1, b"\0\0\0\0\7abc"))
        await client.ping()
        wait(21)
        assert (await client.answer(1))[0]["grpc-status"] == DEADLINE

    async def test_a_stream_that_the_server_does_not_read_has_no_timeout(self, timed, raw):
        blocked = BlockedHandler()
        server, address, wait = await timed(Hold=grpc.stream_unary_rpc_method_handler(blocked))
        client = await raw(address)
        client.open(1, "Hold")
        client.send(1, *(bytes(1000) for _ in range(130)), flags=0)  # about what the window takes
        await client.ping()
        await soon(blocked.entered)
        wait(100)
        await client.ping()
        assert server.counters.stalled_calls == 0


class TestAnswers:
    async def test_an_answer_that_is_not_read_ends_its_call_alone(self, timed, raw):
        server, address, wait = await timed(Echo=unary(echo))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 10))
        client.open(1, "Echo")
        client.send(1, bytes(100))
        await client.until(Frame.DATA, 1)
        wait(29)
        await client.ping()
        wait(2)
        fields, _ = await client.answer(1)
        assert fields["grpc-status"] == DEADLINE
        assert "server.write_timeout" in fields["grpc-message"]
        client.open(3, "Echo")
        client.send(3, b"x")
        assert (await client.answer(3))[1] == b"\0\0\0\0\1x"
        await until(lambda: server.buffers.used == 0)

    async def test_a_connection_of_which_nothing_is_read_is_aborted(self, timed, raw):
        flood = Flood()
        server, address, wait = await timed(Flood=grpc.unary_stream_rpc_method_handler(flood))
        client = await raw(address, (Setting.INITIAL_WINDOW_SIZE, 2**26), limit=2**16)
        client.window_update(0, 2**26)
        client.open(1, "Flood")
        client.send(1, b"")
        await client.until(Frame.HEADERS, 1)
        (server_side,) = server.connections
        await until(lambda: not server_side.writable.is_set())
        assert server.buffers.used > 0
        wait(29)
        assert server.connections
        wait(3)
        await soon(flood.left)
        await all_closed(server)
        assert server.counters.ended[EndReason.WRITE_TIMEOUT] == 1
        await until(lambda: server.buffers.used == 0)
