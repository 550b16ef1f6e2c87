"""The load report in each of its forms, from a server that is asked over its sockets."""

import asyncio
import base64
import contextlib
import json
import re
from pathlib import Path

import grpc
import h2.connection
import h2.events
import h2.settings
import numpy as np
import pytest
from google.protobuf import json_format
from grpc import aio

from batcher import protocol
from batcher.protocol import INFERENCE, LOAD_REPORTS, OPEN_RCA, Stub, load, orca, orca_service
from batcher.server.services import load as load_service
from batcher.testing.messages import infer_request

WAIT_S = 20
BINARY = ("endpoint-load-metrics-format", "BIN")
GRPC = {"content-type": "application/grpc"}
ORCA = "endpoint-load-metrics-bin"


def ask(rows=1, model="hello"):
    return infer_request(model, {"X": np.ones((rows, 4), np.float32)})


@pytest.fixture
async def server(start, hello):
    """A started application with an HTTP listener, and a channel to it."""
    application = await start(hello(server={"http": "127.0.0.1:0", "replica": "replica-7"}))
    async with aio.insecure_channel(application.grpc.addresses[0]) as channel:
        yield application, channel


async def trailers(address, requests, *metadata, method="ModelInfer"):
    """The trailers of a call as they are on the wire: grpc keeps those of ORCA for its load balancers."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    headers = {":method": "POST", ":scheme": "http", ":authority": "test"}
    headers |= {":path": f"/{INFERENCE}/{method}", "te": "trailers"}
    connection.send_headers(1, list((headers | GRPC | dict(metadata)).items()))
    for message in requests:
        data = message.SerializeToString()
        connection.send_data(1, b"\0" + len(data).to_bytes(4, "big") + data)
    connection.end_stream(1)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    found = {}
    with contextlib.closing(writer):
        async with asyncio.timeout(WAIT_S):
            while True:
                writer.write(connection.data_to_send())
                for event in connection.receive_data(await reader.read(65536)):
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        found = {name.decode(): text.decode() for name, text in event.headers}
                    if isinstance(event, h2.events.StreamEnded):
                        return found


def report_in(found):
    """The report in trailers, in which binary values are in base64 without padding."""
    return orca.OrcaLoadReport.FromString(base64.b64decode(found[ORCA] + "=="))


async def test_every_form_says_the_same_of_one_moment(server, fetch):
    application, channel = server
    await Stub(channel, INFERENCE).ModelInfer(ask(3))
    await application.batcher.idle()  # a call ends for its caller before it does here
    message = await Stub(channel, LOAD_REPORTS).Get(load.GetLoadRequest())
    status, text = await fetch(application.http.address, "/v1/load")
    assert status == 200
    document = json.loads(text)
    assert document["replica"]["replica"] == message.replica.replica == "replica-7"
    assert document["replica"]["start_id"] == message.replica.start_id
    (model,) = message.models
    assert (model.model, model.version, model.state) == ("hello", "1", "ready")
    assert [(each.outcome, each.reason, each.count) for each in model.requests] == [("ok", "", 1)]
    assert (model.batches, model.batch_rows) == (1, 3)
    assert dict(model.instances) == {"up": 1}
    if document["number"] == message.number:
        parsed = json_format.Parse(text, load.LoadReport())
        assert parsed == message


async def test_reflection_knows_both_services(server):
    _, channel = server
    stub = Stub(channel, "grpc.reflection.v1.ServerReflection")
    asked = protocol.reflection.ServerReflectionRequest(list_services="*")
    (answer,) = [each async for each in stub.ServerReflectionInfo(iter([asked]))]
    names = {each.name for each in answer.list_services_response.service}
    assert {LOAD_REPORTS, OPEN_RCA} <= names


async def test_a_request_that_cannot_be_read_is_refused(server):
    _, channel = server
    get = channel.unary_unary(f"/{LOAD_REPORTS}/Get")(b"\xff\xff")
    watch = channel.unary_stream(f"/{LOAD_REPORTS}/Watch")(b"\xff\xff")
    metrics = channel.unary_stream(f"/{OPEN_RCA}/StreamCoreMetrics")(bytes(1024 * 1024 + 1))
    for call in (get, watch, metrics):
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_report_that_cannot_be_made_fails_its_callers_alone(server, fetch):
    application, channel = server
    observe = application.load.sources.observe
    application.load.health_changed()
    application.load.sources.observe = lambda: 1 / 0
    stub = Stub(channel, LOAD_REPORTS)
    for call in (stub.Get(load.GetLoadRequest()), stub.Watch(load.WatchLoadRequest())):
        assert await call.code() is grpc.StatusCode.INTERNAL
        assert "division" not in await call.details()
    found = await trailers(application.grpc.addresses[0], [ask()], BINARY)
    assert found["grpc-status"] == "0"
    assert ORCA not in found
    assert (await fetch(application.http.address, "/v1/load"))[0] == 500
    application.load.sources.observe = observe
    assert (await stub.Get(load.GetLoadRequest())).number


async def test_watch_sends_later_reports_until_the_caller_leaves(server):
    _, channel = server
    request = load.WatchLoadRequest(interval={"nanos": 100_000_000})
    call = Stub(channel, LOAD_REPORTS).Watch(request)
    async with asyncio.timeout(WAIT_S):
        numbers = [(await call.read()).number for _ in range(3)]
    assert numbers[0] < numbers[-1]
    call.cancel()


@pytest.mark.parametrize("interval", [{"nanos": 99_999_999}, {"seconds": -1}, {"seconds": 3_601}])
async def test_an_interval_out_of_bounds_is_refused(server, interval):
    _, channel = server
    call = Stub(channel, LOAD_REPORTS).Watch(load.WatchLoadRequest(interval=interval))
    with pytest.raises(aio.AioRpcError, match=r"allowed: 0\.1 s to 3600 s") as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_watchers_are_bounded_and_make_room_when_they_leave(server, monkeypatch, eventually):
    _, channel = server
    monkeypatch.setattr(load_service, "MAX_WATCHERS", 2)
    stub = Stub(channel, LOAD_REPORTS)
    calls = [stub.Watch(load.WatchLoadRequest()) for _ in range(2)]
    for call in calls:
        await call.read()
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Watch(load.WatchLoadRequest()).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    calls[0].cancel()

    async def has_room():
        another = stub.Watch(load.WatchLoadRequest())
        with contextlib.suppress(aio.AioRpcError):
            return await another.read() is not aio.EOF
        return False

    await eventually(has_room)


class Watcher:
    """A raw client that watches, and reads when it wants to: its window is empty at first."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.connection = h2.connection.H2Connection()
        self.data = b""

    async def begin(self):
        self.connection.initiate_connection()
        self.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        while self.connection.local_settings.initial_window_size:
            await self.until(h2.events.SettingsAcknowledged)
        headers = {":method": "POST", ":scheme": "http", ":authority": "test"}
        headers |= {":path": f"/{LOAD_REPORTS}/Watch", "te": "trailers"}
        self.connection.send_headers(1, list((headers | GRPC).items()))
        request = load.WatchLoadRequest(interval={"nanos": 100_000_000}).SerializeToString()
        data = b"\0" + len(request).to_bytes(4, "big") + request
        self.connection.send_data(1, data, end_stream=True)
        await self.until(h2.events.ResponseReceived)

    async def until(self, kind):
        """Take what comes until an event of this kind."""
        while True:
            self.writer.write(self.connection.data_to_send())
            events = self.connection.receive_data(await self.reader.read(65536))
            self.data += b"".join(e.data for e in events if isinstance(e, h2.events.DataReceived))
            if any(isinstance(event, kind) for event in events):
                return

    async def report(self):
        """The next report that the server had sent or sends now."""
        while len(self.data) < 5 or len(self.data) < 5 + int.from_bytes(self.data[1:5], "big"):
            await self.until(h2.events.DataReceived)
        end = 5 + int.from_bytes(self.data[1:5], "big")
        message, self.data = self.data[5:end], self.data[end:]
        return load.LoadReport.FromString(message)


async def test_a_watcher_that_does_not_read_gets_the_latest_report_next(server, eventually):
    application, channel = server
    stub = Stub(channel, LOAD_REPORTS)

    async def passed():
        return (await stub.Get(load.GetLoadRequest())).number >= 10

    host, _, port = application.grpc.addresses[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.closing(writer):
        watcher, numbers = Watcher(reader, writer), []
        async with asyncio.timeout(WAIT_S):
            await watcher.begin()
            await eventually(passed)
            watcher.connection.increment_flow_control_window(1_000_000, 1)
            while not numbers or numbers[-1] < 10:
                numbers.append((await watcher.report()).number)
    assert len(numbers) <= 3, "a report or two were on their way, and no more wait"


@pytest.mark.parametrize("after_ms", [0, 250])
async def test_a_watcher_that_leaves_is_no_error(server, eventually, caplog, after_ms):
    application, _ = server
    host, _, port = application.grpc.addresses[0].rpartition(":")
    for _ in range(4):
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(WAIT_S):
            await Watcher(reader, writer).begin()
        await asyncio.sleep(after_ms / 1000)
        writer.transport.abort()
    servicer = application.grpc._load
    await eventually(lambda: not servicer._watchers[LOAD_REPORTS])
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_watchers_get_a_last_report_as_the_server_stops(server):
    application, channel = server
    call = Stub(channel, LOAD_REPORTS).Watch(load.WatchLoadRequest(interval={"seconds": 3600}))
    metrics = Stub(channel, OPEN_RCA).StreamCoreMetrics(
        orca_service.OrcaLoadReportRequest(report_interval={"seconds": 3600})
    )
    assert (await call.read()).replica.ready
    await metrics.read()
    await application.drain()
    closing = asyncio.create_task(application.grpc.stop(WAIT_S))
    async with asyncio.timeout(WAIT_S):
        # One as it stops being ready, and one as its call ends.
        for _ in range(2):
            last = (await call.read()).replica
            assert (last.draining, last.reason) == (True, "draining")
            assert (await metrics.read()).named_metrics["ready"] == 0
        assert await call.read() is aio.EOF
        assert await metrics.read() is aio.EOF
        await closing


async def test_the_example_of_the_page_runs(server, capsys, eventually):
    application, _ = server
    page = (Path(__file__).parents[3] / "docs" / "calling.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n([^`]*LOAD_REPORTS[^`]*?)asyncio\.run[^`]*```", page)
    names = {}
    exec(example, names)
    watching = asyncio.create_task(names["watch"](application.grpc.addresses[0]))
    printed = []

    def said_all():
        printed.extend(capsys.readouterr().out.splitlines())
        return watching.done() or len(printed) > 1

    await eventually(said_all)
    watching.cancel()
    assert printed[:2] == ["replica-7 True", "not known yet"]


async def test_core_metrics_come_at_once_and_in_the_shortest_interval(server):
    _, channel = server
    call = Stub(channel, OPEN_RCA).StreamCoreMetrics(orca_service.OrcaLoadReportRequest())
    async with asyncio.timeout(WAIT_S):
        first, second = await call.read(), await call.read()
    assert 0 <= first.mem_utilization <= 1
    assert second.named_metrics['queue_requests{model="hello",version="1"}'] == 0
    call.cancel()


async def test_a_call_that_asks_gets_its_models_load(server):
    application, _ = server
    address = application.grpc.addresses[0]
    found = await trailers(address, [ask()], BINARY)
    assert found["grpc-status"] == "0"
    assert report_in(found).named_metrics["queue_requests"] == 0
    assert ORCA not in await trailers(address, [ask()])


async def test_calls_that_fail_have_it_too(server):
    application, _ = server
    address = application.grpc.addresses[0]
    found = await trailers(address, [ask(model="unknown")], BINARY)
    assert found["grpc-status"] == "5"
    assert report_in(found).named_metrics == {"ready": 1}
    found = await trailers(address, [infer_request("hello", {})], BINARY)
    assert found["grpc-status"] == "3"
    assert "queue_requests" in report_in(found).named_metrics
    application.batcher.draining = True
    found = await trailers(address, [ask()], BINARY)
    assert {ORCA, "grpc-retry-pushback-ms"} <= found.keys()


async def test_other_forms(server):
    application, _ = server
    address = application.grpc.addresses[0]
    for form, begin in (("text", "TEXT "), ("JSON", "JSON ")):
        found = await trailers(address, [ask()], ("endpoint-load-metrics-format", form))
        assert found["endpoint-load-metrics"].startswith(begin)
    report = json.loads(found["endpoint-load-metrics"].removeprefix("JSON "))
    assert report["named_metrics"]["queue_rows"] == 0
    found = await trailers(address, [ask()], ("endpoint-load-metrics-format", "xml"))
    assert not [name for name in found if name.startswith("endpoint-load")]


async def test_a_stream_ends_with_it(server):
    application, _ = server
    address = application.grpc.addresses[0]
    found = await trailers(address, [ask(), ask()], BINARY, method="ModelStreamInfer")
    assert report_in(found).named_metrics == {"ready": 1}


async def test_every_call_has_it_if_the_configuration_says_so(start, hello):
    application = await start(hello(server={"load_trailers": True}))
    address = application.grpc.addresses[0]
    found = await trailers(address, [ask()], ("x-batcher-timings", "1"))
    assert {ORCA, "x-batcher-timings"} <= found.keys()
    assert ORCA in await trailers(address, [ask(model="unknown")])
    assert ORCA in await trailers(address, [ask()], method="ModelStreamInfer")
