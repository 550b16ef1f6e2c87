"""Callers that leave (cancel, miss their deadline, lose their connection) do not affect others.

Over real sockets. The scheduler's part of the same promise is in `tests/property`.
"""

import asyncio
import random
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc import aio

from batcher import protocol
from batcher.core.commands import Outcome, Reason
from batcher.testing.messages import output_arrays

GONE = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    # No batch could have answered in time: the request ends at once, before the deadline.
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
KINDS = ("stay", "cancel", "deadline", "close", "abort")


class Relay:
    """A TCP relay to a server, whose connections can be closed without notice."""

    def __init__(self, target):
        self._host, _, self._port = target.rpartition(":")
        self._open = set()
        self._pumps = set()
        self.address = ""

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.abort()
        await asyncio.gather(*self._pumps)

    def abort(self):
        """Cut every connection: both sides see a reset."""
        for writer in self._open:
            writer.transport.abort()

    async def _accept(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._open |= {writer, far_writer}
        for ends in ((reader, far_writer), (far_reader, writer)):
            self._pumps.add(asyncio.create_task(self._pump(*ends)))

    @staticmethod
    async def _pump(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.transport.abort()


class Crowd:
    """Callers of all kinds, in a seeded order, each with rows that no other caller has."""

    def __init__(self, seed, address, request_of):
        self.random = random.Random(seed)
        self.sent = self.answered = self.gone = self.expired = 0
        self._address = address
        self._request_of = request_of
        self._stack = AsyncExitStack()

    async def __aenter__(self):
        relay = await self._stack.enter_async_context(Relay(self._address))
        self._relay = relay
        self._channels = {kind: await self._dial(self._address) for kind in KINDS[:-1]}
        self._channels["abort"] = await self._dial(relay.address)
        return self

    async def __aexit__(self, *error):
        for channel in self._channels.values():
            await channel.close()
        await self._stack.aclose()

    async def _dial(self, address):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        channel = aio.insecure_channel(address, options)
        await channel.channel_ready()
        return channel

    def send(self, kinds, count, deadline_s):
        """Start this many calls; returns (kind, call, check of its answer) of each."""
        calls = []
        for _ in range(count):
            kind = self.random.choice(kinds)
            self.sent += 1
            rows = self.random.randint(1, 4)
            request = self._request_of(float(self.sent), rows=rows)
            timeout = self.random.uniform(*deadline_s) if kind == "deadline" else None
            stub = protocol.Stub(self._channels[kind], protocol.INFERENCE)
            call = stub.ModelInfer(request, timeout=timeout)
            calls.append((kind, call, asyncio.create_task(self._end(kind, call, self.sent, rows))))
        return calls

    async def _end(self, kind, call, number, rows):
        try:
            answer = await call
        except (aio.AioRpcError, asyncio.CancelledError, aio.UsageError):
            assert kind != "stay", f"request {number} stayed and was not answered"
            code = await call.code()
            assert code in GONE
            assert kind == "deadline" or code is not grpc.StatusCode.RESOURCE_EXHAUSTED
            self.gone += 1
            self.expired += code is grpc.StatusCode.DEADLINE_EXCEEDED
            return
        outputs = output_arrays(answer)["Y"]
        assert outputs.shape == (rows, 4)
        assert (outputs == 2 * number).all(), f"request {number} got the rows of another"
        self.answered += 1

    async def leave(self, calls):
        """All callers that do not stay leave, one after the other."""
        for kind, call, _ in self.random.sample(calls, len(calls)):
            if kind == "cancel":
                call.cancel()
                await asyncio.sleep(0)
        kinds = {kind for kind, _, _ in calls}
        if "close" in kinds:
            await self._channels["close"].close()
            self._channels["close"] = await self._dial(self._address)
        if "abort" in kinds:
            self._relay.abort()
            await self._channels["abort"].close()
            self._channels["abort"] = await self._dial(self._relay.address)


def ended(metrics):
    return metrics.sum("batcher_requests_total")


def live(metrics):
    return metrics.sum("batcher_queue_requests") + metrics.sum("batcher_executing_requests")


@pytest.mark.slow
async def test_every_request_that_arrived_ends_once(serve, hello, request_of, scrape, eventually):
    """Each wave leaves when all of it has arrived, so the server's counts are known exactly.

    Save for calls whose deadline passes: on a busy machine that may be before they are sent.
    """
    batching = {"max_batch_size": 16}
    server = serve(hello(base="80ms", batching=batching))

    async with Crowd(1, server.grpc, request_of) as crowd:

        async def arrived():
            # What had ended and what is live a scrape later: no request is counted twice.
            nonlocal before
            metrics = await scrape(server.http)
            known, before = before + live(metrics), ended(metrics)
            return crowd.sent - crowd.expired <= known <= crowd.sent

        before = 0
        for _ in range(5):
            calls = crowd.send(KINDS, 80, (0.7, 1.0))
            await eventually(arrived)
            await crowd.leave(calls)
            await asyncio.gather(*(task for _, _, task in calls))

        async def over():
            metrics = await scrape(server.http)
            return live(metrics) == 0 and metrics.sum("batcher_queue_rows") == 0

        await eventually(over)
        metrics = await scrape(server.http)
        assert crowd.sent == 400
        assert crowd.answered + crowd.gone == crowd.sent
        assert crowd.sent - crowd.expired <= ended(metrics) <= crowd.sent
        outcomes = {
            outcome: metrics.sum("batcher_requests_total", outcome=outcome)
            for outcome in metrics.values("batcher_requests_total", "outcome")
            if metrics.sum("batcher_requests_total", outcome=outcome)
        }
        # How much of a deadline is left on arrival depends on the machine: too little is refused.
        late = {"outcome": "rejected", "reason": "predicted_late"}
        assert outcomes.pop("rejected", 0) == metrics.sum("batcher_requests_total", **late)
        assert outcomes.keys() <= {"ok", "cancelled", "expired"}
        # An answer may have crossed its caller's leaving on the way.
        assert outcomes["ok"] >= crowd.answered
        assert outcomes["cancelled"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_leaving_at_any_moment(start, hello, request_of, eventually, seed, monkeypatch):
    """Some leave before their request has arrived; the calls of `Batcher.answer` show which did."""
    application = await start(hello(base="3ms", batching={"max_batch_size": 16}))
    batcher, entered = application.batcher, 0
    answer = batcher.answer

    async def counted(request, encode, exchange):
        nonlocal entered
        entered += 1
        return await answer(request, encode, exchange)

    monkeypatch.setattr(batcher, "answer", counted)

    async with Crowd(seed, application.grpc.addresses[0], request_of) as crowd:
        for _ in range(8):
            calls = crowd.send(KINDS, 40, (0.0005, 0.02))
            await asyncio.sleep(crowd.random.uniform(0, 0.02))
            await crowd.leave(calls)
            await asyncio.gather(*(task for _, _, task in calls))

        await eventually(lambda: batcher.unanswered == 0)
        value = application.registry.get_sample_value
        labels = {"model": "hello", "version": "1"}

        def total():
            telemetry = application.models.find("hello", "1").telemetry
            return sum(telemetry.requests.values())

        await eventually(lambda: total() == entered)
        assert crowd.answered <= total() <= crowd.sent == 320
        assert value("batcher_queue_requests", labels) == 0
        assert value("batcher_executing_requests", labels) == 0
        # The last batch may run on although no caller waits for it.
        await eventually(lambda: value("batcher_batches_in_flight", labels) == 0)

        calls = crowd.send(["stay"], 20, (0, 0))
        await asyncio.gather(*(task for _, _, task in calls))


@pytest.mark.slow
async def test_what_expires_in_the_queue_is_never_executed(
    start, hello, fakes, dial, request_of, eventually
):
    application = await start(hello(executor="fake", options={}))
    hang = fakes[0].hang_next()
    stub = await dial(application.grpc.addresses[0])
    first = asyncio.ensure_future(stub.ModelInfer(request_of(rows=1)))
    await asyncio.to_thread(hang.wait_entered)

    by_caller = [stub.ModelInfer(request_of(rows=2), timeout=1.0) for _ in range(5)]
    request = request_of(rows=3)
    request.parameters["timeout"].int64_param = 500_000  # microseconds
    in_queue = [stub.ModelInfer(request) for _ in range(5)]
    await eventually(lambda: application.batcher.unanswered == 11)
    for call in (*by_caller, *in_queue):
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: application.batcher.unanswered == 1)

    hang.release()
    assert output_arrays(await first)["Y"].shape == (1, 4)
    await stub.ModelInfer(request_of(rows=4))
    assert fakes[0].batch_sizes == [1, 4]
    await application.batcher.idle()
    counts = application.models.find("hello", "1").telemetry.requests
    # The reset of a caller that has run out of time may outrun the server's own clock.
    left = (Outcome.CANCELLED, Reason.CALLER_CANCELLED)
    expired = counts.get((Outcome.EXPIRED, Reason.CALLER_DEADLINE), 0)
    assert expired + counts.get(left, 0) == len(by_caller)
    assert counts[Outcome.EXPIRED, Reason.QUEUE_TIMEOUT] == len(in_queue)
