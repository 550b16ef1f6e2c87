"""A request ends when its last byte is with the transport, once, with what its caller saw."""

import asyncio
import contextlib
import struct
from functools import partial

import numpy as np
import pytest
from grpc import aio

from batcher.core.commands import Outcome
from batcher.http2.sansio.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.hpack import encode
from batcher.http2.server_connection import ServerConnection
from batcher.telemetry.ended import EndHooks
from batcher.telemetry.families import Stage
from batcher.testing.messages import infer_request

WAIT_S = 20
WINDOW = 10
"""Bytes: fewer than any answer has."""


class Reader:
    """A client of one connection that takes as many bytes of answers as a test lets it."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        setting = struct.pack(">HI", Setting.INITIAL_WINDOW_SIZE, WINDOW)
        writer.write(PREFACE + frame(Frame.SETTINGS, 0, 0, setting))

    def call(self, number, request, *metadata, method="ModelInfer", last=END_STREAM):
        fields = (
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", f"/inference.GRPCInferenceService/{method}"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *metadata,
        )
        message = request.SerializeToString()
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self.writer.write(frame(Frame.HEADERS, END_HEADERS, number, encode(fields)))
        self.writer.write(frame(Frame.DATA, last, number, body))

    async def until_data(self):
        """Return when some of an answer has come: the rest waits for the window."""
        async with asyncio.timeout(WAIT_S):
            while True:
                head = await self.reader.readexactly(9)
                size = int.from_bytes(head[:3], "big")
                await self.reader.readexactly(size)
                if head[3] == Frame.DATA and size:
                    return

    def reset(self, number):
        self.writer.write(frame(Frame.RST_STREAM, 0, number, Error.CANCEL.to_bytes(4, "big")))

    def read_all(self, number):
        self.writer.write(frame(Frame.WINDOW_UPDATE, 0, number, (2**20).to_bytes(4, "big")))


@pytest.fixture
async def served(start, hello):
    """(application, ended): `ended` are the records of the requests that have ended."""
    application = await start(hello(batching={"target_p99": "10s"}))
    ended = []
    application.telemetry.ended.add(ended.append)
    application.telemetry.ended.add(broken)
    return application, ended


def broken(_):
    raise ValueError("a hook that raises")


@pytest.fixture
async def slow(served):
    """A client of that server that reads nothing by itself."""
    host, port = served[0].grpc.addresses[0].split(":")
    client = Reader(*await asyncio.open_connection(host, int(port)))
    yield client
    client.writer.close()


@pytest.mark.parametrize(
    ("leave", "metadata", "end"),
    [
        ("reset", (), ("cancelled", "answer_lost")),
        ("close", (), ("cancelled", "answer_lost")),
        ("stay", (("grpc-timeout", "400m"),), ("expired", "caller_deadline")),
        ("read", (), ("ok", "")),
    ],
)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_an_answer_ends_as_its_caller_saw_it(
    served, slow, request_of, eventually, caplog, method, leave, metadata, end
):
    application, ended = served
    slow.call(1, request_of(rows=64), *metadata, method=method)
    await slow.until_data()
    if leave != "stay":
        assert not ended  # the answer is made, and waits for the window
    if leave == "reset":
        slow.reset(1)
    elif leave == "close":
        slow.writer.transport.abort()
    elif leave == "read":
        slow.read_all(1)
    await eventually(lambda: ended)
    await application.batcher.idle()
    (found,) = ended
    assert (found.outcome, found.reason) == end
    assert sum(found.stages_ns) == found.duration_ns
    assert found.stages_ns[-1] > 0
    requests = application.models.find("hello", "1").telemetry.requests
    assert {key: count for key, count in requests.items() if count} == {end: 1}
    # That a caller leaves is no error of the server.
    errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert [each.name for each in errors] == [EndHooks.__module__]


@pytest.mark.parametrize("transport", ["builtin"], indirect=True)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("lose", ["abort", "raise"])
async def test_an_answer_that_is_lost_between_framing_and_the_socket_is_no_answer(
    served, slow, request_of, eventually, monkeypatch, method, lose
):
    """Requests of one call and of others on its connection are framed, and not one byte of theirs is written."""
    application, ended = served
    flush, lost = ServerConnection.flush, []

    def flush_after_the_end(connection):
        if connection._framed and not lost:
            lost.append(len(connection._framed))
            assert not ended
            if lose == "raise":
                monkeypatch.setattr(connection.http2, "data_to_send", partial(broken, None))
            else:
                connection._transport.abort()
        flush(connection)

    monkeypatch.setattr(ServerConnection, "flush", flush_after_the_end)
    many = 5
    for number in range(1, 2 * many, 2):
        slow.call(number, request_of(rows=1), method=method)
        slow.read_all(number)
    slow.read_all(0)
    await eventually(lambda: len(ended) == many)
    await application.batcher.idle()
    assert lost
    assert len(ended) == many
    assert {found.outcome for found in ended} == {Outcome.CANCELLED}
    assert all(sum(found.stages_ns) == found.duration_ns for found in ended)
    telemetry = application.models.find("hello", "1").telemetry
    assert telemetry.requests[Outcome.CANCELLED, "answer_lost"] >= lost[0]
    assert telemetry.requests[Outcome.OK, ""] == 0


@pytest.mark.parametrize("order", ["any", "same"])
async def test_a_stream_that_is_cut_ends_each_of_its_requests_once(
    served, slow, request_of, eventually, order
):
    application, ended = served
    many = 20
    path = ("x-batcher-stream-order", order)
    slow.call(1, request_of(rows=64), path, method="ModelStreamInfer", last=0)
    message = request_of(rows=64).SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    for _ in range(many - 1):
        slow.writer.write(frame(Frame.DATA, 0, 1, body))
    await slow.until_data()
    telemetry = application.models.find("hello", "1").telemetry
    await eventually(lambda: telemetry.batch_rows.total == 64 * many)
    slow.reset(1)
    await eventually(lambda: len(ended) == many)
    await application.batcher.idle()
    assert len(ended) == many
    assert {found.outcome for found in ended} == {Outcome.CANCELLED}


async def test_many_slow_readers_end_each_once(served, request_of, eventually):
    application, ended = served
    host, port = application.grpc.addresses[0].split(":")
    clients = [Reader(*await asyncio.open_connection(host, int(port))) for _ in range(40)]
    for client in clients:
        for number in range(1, 50, 2):
            client.call(number, request_of(rows=64))
    await asyncio.gather(*(client.until_data() for client in clients))
    telemetry = application.models.find("hello", "1").telemetry
    await eventually(lambda: telemetry.batch_rows.total == 64 * 1000)
    for client in clients:
        client.writer.transport.abort()
    await eventually(lambda: len(ended) == 1000)
    await application.batcher.idle()
    assert telemetry.requests[Outcome.OK, ""] == 0
    assert len(ended) == 1000


async def test_the_stages_add_up_over_requests_of_every_outcome(
    start, hello, dial, request_of, eventually
):
    """Thousands that are answered, refused, late, cancelled, failed: not a nanosecond is lost."""
    document = hello(base="20ms", batching={"max_batch_size": 64}, queue={"max_requests": 100})
    application = await start(document)
    ended = []
    application.telemetry.ended.add(ended.append)
    stub = await dial(application.grpc.addresses[0])
    wrong = infer_request("hello", {"Z": np.ones((1, 4), np.float32)})

    async def send(number):
        await asyncio.sleep(number % 50 / 1000)
        kind = number % 5
        request = wrong if kind == 0 else request_of(rows=64 if kind == 1 else 1)
        timeout = 0.01 * (1 + number % 7) if kind == 2 else WAIT_S
        call = stub.ModelInfer(request, timeout=timeout)
        if kind == 3:
            await asyncio.sleep(0.003)
            call.cancel()
        with contextlib.suppress(aio.AioRpcError, asyncio.CancelledError):
            await call

    for _ in range(4):
        await asyncio.gather(*(send(number) for number in range(500)))
    async with asyncio.timeout(WAIT_S):
        await application.batcher.idle()
        while Outcome.CANCELLED not in {found.outcome for found in ended}:
            call = stub.ModelInfer(request_of(), timeout=WAIT_S)
            await eventually(lambda: application.batcher.unanswered)
            call.cancel()
            await application.batcher.idle()
    assert len({found.outcome for found in ended}) >= 3
    for found in ended:
        assert sum(found.stages_ns) == found.duration_ns, found
        assert min(found.stages_ns) >= 0, found
    telemetry = application.models.find("hello", "1").telemetry
    telemetry.fold()
    durations = sum(each.total for each in telemetry.durations.values())
    assert sum(telemetry.stages[stage].total for stage in Stage) == durations
    assert durations == sum(found.duration_ns for found in ended)
    assert sum(telemetry.requests.values()) == len(ended)
    statistics = telemetry.statistics()
    assert statistics.success.ns + statistics.fail.ns == durations


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((("x-batcher-spent-ms", "12.5"),), 12_500_000),
        ((("x-batcher-spent-ms", "-1"),), None),
        ((), None),
    ],
)
async def test_what_the_caller_says_was_spent_is_known_at_the_end(
    start, hello, dial, request_of, metadata, expected
):
    batching = {"target_p99": "50ms"}
    document = hello(base="60ms", batching=batching, budget={"upstream": "1ms"})
    application = await start(document)
    ended = []
    application.telemetry.ended.add(ended.append)
    stub = await dial(application.grpc.addresses[0])
    call = stub.ModelInfer(request_of(), metadata=(*metadata, ("x-batcher-timings", "1")))
    await call
    await application.batcher.idle()
    (found,) = ended
    assert found.upstream_ns == expected
    assert found.late_hop == "execute"
    timings = dict(await call.trailing_metadata())["x-batcher-timings"]
    assert timings.endswith("late=execute")
    assert ("upstream=12500" in timings) == (expected is not None)
    value = application.registry.get_sample_value
    labels = {"model": "hello", "version": "1"}
    assert value("batcher_late_answers_total", labels | {"hop": "execute"}) == 1
    over = value("batcher_budget_exceeded_total", labels | {"hop": "upstream"})
    assert over == (1 if expected else 0)
    ignored = value("batcher_upstream_claims_ignored_total", labels)
    assert ignored == (1 if metadata and expected is None else 0)
