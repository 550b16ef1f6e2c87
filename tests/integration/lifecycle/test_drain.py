"""Draining: not ready first, then new requests are refused and accepted ones answered."""

import asyncio
import json
import signal

import grpc
import pytest
from grpc import aio

from batcher import protocol
from batcher.app import DrainTimeoutError
from batcher.clock import SECOND
from batcher.core.commands import Outcome, Reason
from batcher.http2.sansio.frames import END_HEADERS, END_STREAM, PREFACE, Frame, frame
from batcher.http2.sansio.hpack import encode
from batcher.protocol import health, inference
from batcher.testing.messages import output_arrays

WAIT_S = 20
"""A call that takes this long has failed: so a mistake is no hanging test."""

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SERVING = health.HealthCheckResponse.SERVING
NOT_SERVING = health.HealthCheckResponse.NOT_SERVING


def refused_for_draining(error):
    trailers = dict(error.trailing_metadata())
    return error.code() is UNAVAILABLE and int(trailers.get("grpc-retry-pushback-ms", 0)) > 0


async def refusal(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


class TestWhileDraining:
    """In this process, so that the last batch ends when the test says so."""

    @pytest.fixture
    async def held(self, start, hello, fakes, dial, request_of):
        """A server with one accepted request: (application, stub, its call, its hang)."""
        server = {"http": "127.0.0.1:0"}
        application = await start(hello(server=server, executor="fake", options={}))
        hang = fakes[0].hang_next()
        stub = await dial(application.grpc.addresses[0])
        accepted = asyncio.ensure_future(stub.ModelInfer(request_of(3.0)))
        await asyncio.to_thread(hang.wait_entered)
        yield application, stub, accepted, hang
        hang.release()

    async def test_first_the_server_is_not_ready_and_still_answers(
        self, held, dial, fetch, request_of
    ):
        application, stub, accepted, hang = held
        probe = await dial(application.grpc.addresses[0], protocol.HEALTH)
        services = ("", protocol.INFERENCE)
        watches = [
            probe.Watch(health.HealthCheckRequest(service=each), timeout=WAIT_S)
            for each in services
        ]
        assert [(await watch.read()).status for watch in watches] == [SERVING, SERVING]
        http = application.http.address
        assert (await fetch(http, "/readyz"))[0] == 200

        draining = asyncio.create_task(application.drain(60 * SECOND))

        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING, NOT_SERVING]
        for service in services:
            answer = await probe.Check(health.HealthCheckRequest(service=service))
            assert answer.status == NOT_SERVING
        assert (await stub.ServerLive(inference.ServerLiveRequest())).live
        assert not (await stub.ServerReady(inference.ServerReadyRequest())).ready
        assert not (await stub.ModelReady(inference.ModelReadyRequest(name="hello"))).ready
        status, report = await fetch(http, "/readyz")
        assert (status, json.loads(report)["reason"]) == (503, "draining")
        assert (await fetch(http, "/healthz"))[0] == 200
        assert application.registry.get_sample_value("batcher_draining") == 1

        # A client that does not know of it yet is answered.
        hang.release()
        assert output_arrays(await accepted)["Y"].max() == 6
        for each in (stub, await dial(application.grpc.addresses[0])):
            assert output_arrays(await each.ModelInfer(request_of(2.0)))["Y"].max() == 4
        draining.cancel()

    async def test_then_new_requests_are_refused(
        self, held, dial, request_of, eventually, transport
    ):
        application, stub, accepted, hang = held
        draining = asyncio.create_task(application.drain())
        await eventually(lambda: application.batcher.draining)
        new_client = await dial(application.grpc.addresses[0])

        for each in (stub, new_client):
            for call in (each.ModelInfer(request_of()), each.ModelStreamInfer().read()):
                error = await refusal(call)
                # With `builtin`, clients are asked to go elsewhere, and cannot connect any more.
                assert error.code() is UNAVAILABLE
                assert transport == "builtin" or refused_for_draining(error)
        assert not draining.done()

        hang.release()
        await draining
        assert output_arrays(await accepted)["Y"].max() == 6

    @pytest.mark.parametrize("transport", ["builtin"])
    async def test_a_call_that_crosses_the_goaway_is_answered(self, held, request_of):
        application, _, accepted, hang = held
        host, port = application.grpc.addresses[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))

        async def until(kind):
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == kind:
                    return payload

        writer.write(PREFACE + frame(Frame.SETTINGS, 0, 0))
        async with asyncio.timeout(WAIT_S):
            await until(Frame.SETTINGS)
            draining = asyncio.create_task(application.drain())
            await until(Frame.GOAWAY)
            message = request_of(2.0).SerializeToString()
            fields = (
                (":method", "POST"),
                (":scheme", "http"),
                (":path", f"/{protocol.INFERENCE}/ModelInfer"),
                ("content-type", "application/grpc"),
            )
            body = b"\0" + len(message).to_bytes(4, "big") + message
            writer.write(frame(Frame.HEADERS, END_HEADERS, 1, encode(fields)))
            writer.write(frame(Frame.DATA, END_STREAM, 1, body))
            hang.release()
            answer = inference.ModelInferResponse.FromString((await until(Frame.DATA))[5:])
            assert output_arrays(answer)["Y"].max() == 4
            writer.close()
            await draining
            await accepted

    async def test_open_streams_answer_and_end(self, held, request_of, eventually):
        application, stub, accepted, hang = held
        busy, idle = stub.ModelStreamInfer(timeout=WAIT_S), stub.ModelStreamInfer(timeout=WAIT_S)
        for number in range(3):
            await busy.write(request_of(number, id=str(number)))
        await idle.write(request_of(model="unknown"))
        assert "unknown" in (await idle.read()).error_message
        await eventually(lambda: application.batcher.unanswered == 4)

        draining = asyncio.create_task(application.drain())

        assert refused_for_draining(await refusal(idle.read()))
        hang.release()
        for number in range(3):
            answer = (await busy.read()).infer_response
            assert answer.id == str(number)
            assert output_arrays(answer)["Y"].max() == 2 * number
        assert refused_for_draining(await refusal(busy.read()))
        await draining
        await accepted

    @pytest.mark.slow
    async def test_streams_that_clients_do_not_read_end_at_the_timeout(
        self, start, hello, dial, request_of, eventually
    ):
        document = hello(server={"drain_timeout": "300ms"}, batching={"max_batch_size": 4096})
        application = await start(document)
        stub = await dial(
            application.grpc.addresses[0], options=[("grpc.http2.lookahead_bytes", 65536)]
        )
        call = stub.ModelStreamInfer(timeout=WAIT_S)
        requests = 64  # far more than the two sides buffer for a client that does not read
        for _ in range(requests):
            await call.write(request_of(rows=4096))
        telemetry = application.models.find("hello", "1").telemetry
        await eventually(lambda: telemetry.batch_rows.total == requests * 4096)
        await eventually(lambda: not application.batcher.unanswered)

        with pytest.raises(DrainTimeoutError, match="not read"):
            await application.drain()
        # What was never sent is no answer.
        assert telemetry.requests[Outcome.OK, Reason.NONE] < requests
        call.cancel()


@pytest.mark.slow
class TestSignals:
    @pytest.fixture
    def batch_under_way(self, serve, hello, dial, request_of, scrape, eventually):
        """A function that starts a server, and one request that its executor is busy with."""

        async def begin(base, **server_settings):
            server = serve(hello(server=server_settings, base=base))
            stub = await dial(server.grpc)
            call = asyncio.ensure_future(stub.ModelInfer(request_of(3.0)))

            async def executing():
                return (await scrape(server.http)).sum("batcher_executing_requests") == 1

            await eventually(executing)
            return server, call

        return begin

    @pytest.mark.parametrize(
        ("signum", "delayed"), [(signal.SIGTERM, True), (signal.SIGINT, False)]
    )
    async def test_new_requests_are_answered_for_drain_delay_after_sigterm_alone(
        self, serve, hello, dial, request_of, eventually, signum, delayed
    ):
        server = serve(hello(server={"drain_delay": "60s"}))
        stub = await dial(server.grpc)
        await stub.ModelInfer(request_of())
        server.process.send_signal(signum)
        await eventually(lambda: "draining" in server.log())
        if delayed:
            assert (await stub.ModelInfer(request_of())).model_name == "hello"
            server.process.send_signal(signum)  # ends it at once
        assert await asyncio.to_thread(server.process.wait, WAIT_S) == int(delayed)

    async def test_sigterm_answers_what_was_accepted_and_ends_with_0(self, batch_under_way):
        server, call = await batch_under_way("1s")
        code = await asyncio.to_thread(server.stop, signal.SIGTERM)
        assert code == 0
        assert output_arrays(await call)["Y"].max() == 6
        assert "draining: 1 requests are unanswered" in server.log()
        assert server.log().rstrip().endswith("drained: every request has ended")

    async def test_too_slow_a_drain_ends_with_1(self, batch_under_way):
        server, call = await batch_under_way("60s", drain_timeout="200ms")
        code = await asyncio.to_thread(server.stop, signal.SIGTERM)
        assert code == 1
        assert "1 request unanswered after 0.2 s (server.drain_timeout)" in server.log()
        error = await refusal(call)
        assert error.code() is UNAVAILABLE
        assert "hello" in error.details()  # an error, not a closed connection

    async def test_a_second_signal_ends_at_once(self, batch_under_way, eventually):
        server, call = await batch_under_way("60s")
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "draining" in server.log())
        assert server.process.poll() is None

        code = await asyncio.to_thread(server.stop, signal.SIGINT)  # fails after 40 s
        assert code == 1
        assert "SIGINT again: the process ends at once" in server.log()
        assert (await refusal(call)).code() is UNAVAILABLE

    async def test_nothing_accepted_is_lost_under_load(
        self, serve, hello, dial, request_of, scrape, eventually
    ):
        server = serve(hello(base="50ms", batching={"max_batch_size": 8}))
        stubs = [await dial(server.grpc) for _ in range(4)]
        calls = [stubs[n % 4].ModelInfer(request_of(n, id=str(n))) for n in range(200)]
        before = 0

        async def arrived():
            nonlocal before
            metrics = await scrape(server.http)
            gauges = ("batcher_queue_requests", "batcher_executing_requests")
            known = before + sum(metrics.sum(name) for name in gauges)
            before = metrics.sum("batcher_requests_total")
            return known == len(calls)

        await eventually(arrived)
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "draining" in server.log())
        late = [stub.ModelInfer(request_of()) for stub in stubs]

        # What crosses the GOAWAY is answered; gRPC itself cancels a call that arrives when the last
        # answer has just left.
        for end in await asyncio.gather(*late, return_exceptions=True):
            if isinstance(end, grpc.RpcError):
                assert end.code() in {UNAVAILABLE, grpc.StatusCode.CANCELLED}
            else:
                assert len(output_arrays(end)["Y"]) == 1
        for number, answer in enumerate(await asyncio.gather(*calls)):
            assert answer.id == str(number)
            assert output_arrays(answer)["Y"].max() == 2 * number
        assert await asyncio.to_thread(server.process.wait, 30) == 0
