"""What those see who have a server in use when it drains: its watchers, an upload, clients in a Unix socket's folder."""

import asyncio
import json
import signal
import threading

import grpc
import pytest
from grpc import aio

from batcher import protocol
from batcher.app import DrainTimeoutError
from batcher.clock import SECOND
from batcher.http2.sansio.frames import ACK, END_HEADERS, END_STREAM, PREFACE, Frame, frame
from batcher.http2.sansio.hpack import encode
from batcher.protocol import inference, load, orca_service
from batcher.server.listeners import is_call_of_grpcio
from batcher.testing.messages import output_arrays
from batcher.testing.server import ServerFailedError, ServerProcess

WAIT_S = 20
"""A call that takes this long has failed: so a mistake is no hanging test."""
HOUR = {"seconds": 3600}
MODEL = """
import pathlib
import time


class Model:
    def __init__(self, endless=False):
        while endless:
            pathlib.Path(__file__).with_name("loading").touch()
            time.sleep(0.01)

    def __call__(self, X):
        return {"Y": X}
"""
"""Of a class whose constructor never returns, where the configuration says so."""
TENSORS = {
    side: [{"name": name, "datatype": "FP32", "shape": [-1, 4]}]
    for side, name in (("inputs", "X"), ("outputs", "Y"))
}


def python_model(**arguments):
    options = TENSORS | {"target": "model.py:Model", "args": arguments}
    return {"name": "own", "executor": "python", "options": options, "warmup": {"batch_sizes": []}}


pytestmark = pytest.mark.slow


async def read(call):
    async with asyncio.timeout(WAIT_S):
        return await call.read()


async def test_watchers_of_the_load_are_told_at_once(start, hello, dial):
    """They have asked for a report in an hour."""
    application = await start(hello())
    address = application.grpc.addresses[0]
    reports = (await dial(address, protocol.LOAD_REPORTS)).Watch(
        load.WatchLoadRequest(interval=HOUR)
    )
    metrics = (await dial(address, protocol.OPEN_RCA)).StreamCoreMetrics(
        orca_service.OrcaLoadReportRequest(report_interval=HOUR)
    )
    replica = (await read(reports)).replica
    assert (replica.ready, replica.draining) == (True, False)
    assert (await read(metrics)).named_metrics["ready"] == 1

    draining = asyncio.create_task(application.drain(60 * SECOND))

    replica = (await read(reports)).replica
    assert (replica.ready, replica.draining, replica.reason) == (False, True, "draining")
    assert (await read(metrics)).named_metrics["ready"] == 0
    draining.cancel()


class Uploading:
    """A client of frames, with a call of which half the message has come."""

    def __init__(self, reader, writer, message):
        self.reader, self.writer = reader, writer
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self.rest = body[len(body) // 2 :]
        fields = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/{protocol.INFERENCE}/ModelInfer"),
            ("content-type", "application/grpc"),
        )
        writer.write(PREFACE + frame(Frame.SETTINGS, 0, 0))
        writer.write(frame(Frame.HEADERS, END_HEADERS, 1, encode(fields)))
        writer.write(frame(Frame.DATA, 0, 1, body[: len(body) // 2]))

    async def until(self, kind):
        """The payload of the next frame of that type; acknowledges every ping on the way to it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == Frame.PING and not head[4] & ACK:
                    self.writer.write(frame(Frame.PING, ACK, 0, payload))
                if head[3] == kind:
                    return payload

    def finish(self):
        self.writer.write(frame(Frame.DATA, END_STREAM, 1, self.rest))


class TestUploads:
    @pytest.fixture(params=["builtin"])
    def transport(self, request):
        """With `grpcio` a call is refused whose message has not come before: the library tells of none earlier."""
        return request.param

    @pytest.fixture
    async def uploading(self, start, hello, request_of, eventually):
        application = await start(hello(server={"drain_timeout": "300ms"}))
        host, port = application.grpc.addresses[0].split(":")
        streams = await asyncio.open_connection(host, int(port))
        client = Uploading(*streams, request_of(2.0).SerializeToString())
        await eventually(lambda: application.grpc.receiving)
        yield application, client
        client.writer.close()

    async def test_a_call_that_was_accepted_is_answered_when_its_message_has_come(self, uploading):
        application, client = uploading
        draining = asyncio.create_task(application.drain())
        await client.until(Frame.PING)
        await client.until(Frame.GOAWAY)  # the final one
        client.finish()
        answer = inference.ModelInferResponse.FromString((await client.until(Frame.DATA))[5:])
        assert output_arrays(answer)["Y"].max() == 4
        await draining

    async def test_it_may_take_drain_timeout(self, uploading):
        application, client = uploading
        with pytest.raises(DrainTimeoutError, match="1 request not sent as a whole"):
            await asyncio.gather(application.drain(), client.until(Frame.GOAWAY))


class TestProcesses:
    async def test_a_unix_socket(self, serve, hello, dial, request_of, tmp_path, eventually):
        address = f"unix:{tmp_path}/batcher.sock"
        server = serve(hello(server={"grpc": [address], "drain_delay": "1s"}, base="300ms"))
        stub = await dial(address)
        assert (await stub.ModelInfer(request_of())).model_name == "hello"
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "draining" in server.log())
        late = asyncio.ensure_future(stub.ModelInfer(request_of(3.0), timeout=WAIT_S))
        code = await asyncio.to_thread(server.process.wait, WAIT_S)
        assert code == 0
        assert output_arrays(await late)["Y"].max() == 6
        assert not (tmp_path / "batcher.sock").exists()

    async def test_sigterm_while_a_model_loads(self, tmp_path, transport, eventually):
        """Its code never returns from the load."""
        (tmp_path / "model.py").write_text(MODEL)
        settings = {"transport": transport, "drain_delay": "60s"}
        config = {"server": settings, "models": [python_model(endless=True)]}
        server = ServerProcess(config, folder=tmp_path)
        failures = []

        def enter():
            try:
                server.__enter__()
            except ServerFailedError as error:
                failures.append(str(error))

        starting = threading.Thread(target=enter)
        starting.start()
        await eventually((tmp_path / "loading").exists)
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, WAIT_S) == 0
        await asyncio.to_thread(starting.join)
        assert "stopped by a signal before the server was ready" in failures[0]

    async def test_sigterm_during_a_reload(
        self, serve, hello, dial, request_of, eventually, scrape, tmp_path
    ):
        """The new generation of one model never loads; what another has accepted is answered."""
        (tmp_path / "model.py").write_text(MODEL)
        document = hello(server={"config_poll_interval": "100ms"}, base="1s")
        document["models"].append(python_model())
        server = serve(document)
        config = json.loads(server.path.read_text())
        config["models"][1] = python_model(endless=True)
        server.path.write_text(json.dumps(config))
        await eventually((tmp_path / "loading").exists)
        stub = await dial(server.grpc)
        call = asyncio.ensure_future(stub.ModelInfer(request_of(3.0), timeout=WAIT_S))

        async def executing():
            return (await scrape(server.http)).sum("batcher_executing_requests") == 1

        await eventually(executing)
        assert await asyncio.to_thread(server.stop, signal.SIGTERM) == 0
        assert output_arrays(await call)["Y"].max() == 6


async def test_clients_of_grpc_lose_nothing_when_a_server_of_theirs_ends(
    serve, hello, request_of, transport, eventually
):
    """With a retry policy, as with `grpcio` calls are refused at the end; `builtin` needs none."""
    document = hello(server={"drain_delay": "300ms"}, base="5ms", batching={"policy": "none"})
    servers = [serve(document) for _ in range(2)]
    policy = {"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s"}
    policy |= {"backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}
    found, going = [], True

    async def call_again(stub):
        while going:
            found.append((await stub.ModelInfer(request_of(), timeout=WAIT_S)).model_name)
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as callers:
        for balancer in ("round_robin", "pick_first"):
            settings = {"loadBalancingConfig": [{balancer: {}}]}
            if transport == "grpcio":
                names = [{"service": protocol.INFERENCE}]
                settings |= {"methodConfig": [{"name": names, "retryPolicy": policy}]}
            options = [("grpc.service_config", json.dumps(settings))]
            options += [("grpc.use_local_subchannel_pool", 1)]
            target = f"ipv4:{','.join(each.grpc for each in servers)}"
            channel = aio.insecure_channel(target, options=options)
            callers.create_task(call_again(protocol.Stub(channel, protocol.INFERENCE)))
        await eventually(lambda: len(found) > 20)
        assert await asyncio.to_thread(servers[0].stop, signal.SIGTERM) == 0
        ended = len(found)
        await eventually(lambda: len(found) > ended + 20)
        going = False
    assert set(found) == {"hello"}


@pytest.mark.parametrize("transport", ["grpcio"])
async def test_calls_of_grpcio_are_known_by_their_tasks(start, hello, dial):
    """The server waits for these before it closes connections. Were they named anew, it would cut calls off."""
    application = await start(hello())
    watch = (await dial(application.grpc.addresses[0], protocol.LOAD_REPORTS)).Watch(
        load.WatchLoadRequest(interval=HOUR)
    )
    await read(watch)
    assert any(map(is_call_of_grpcio, asyncio.all_tasks()))
    await asyncio.gather(application.grpc.stop(WAIT_S), read(watch))
    assert await watch.code() is grpc.StatusCode.OK
    assert not any(map(is_call_of_grpcio, asyncio.all_tasks()))


@pytest.mark.parametrize("transport", ["grpcio"])
async def test_a_call_that_comes_while_another_ends_is_not_cancelled(
    start, hello, fakes, dial, request_of, eventually
):
    """CANCELLED is the end for a caller. Under load some call has always just come when another ends."""
    application = await start(hello(executor="fake", options={}))
    stub = await dial(application.grpc.addresses[0])
    first = fakes[0].hang_next()
    calls = [asyncio.ensure_future(stub.ModelInfer(request_of(1.0)))]
    await asyncio.to_thread(first.wait_entered)
    second = fakes[0].hang_next()
    stopping = asyncio.create_task(application.grpc.stop(WAIT_S))
    calls.append(asyncio.ensure_future(stub.ModelInfer(request_of(2.0))))
    await eventually(lambda: application.batcher.unanswered == 2)
    first.release()
    assert output_arrays(await calls[0])["Y"].max() == 2
    await asyncio.to_thread(second.wait_entered)
    second.release()
    assert output_arrays(await calls[1])["Y"].max() == 4
    await stopping
