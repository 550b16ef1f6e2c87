"""Where metrics and logs lead to a trace."""

import asyncio
import io
import json
import logging
import urllib.request

import pytest
from grpc import aio
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from batcher.executor import ExecutionError
from batcher.telemetry import configure_logging

UNSAMPLED = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
SAMPLED = (UNSAMPLED[0], UNSAMPLED[1][:-2] + "01")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scraped(address, accept):
    request = urllib.request.Request(f"http://{address}/metrics", headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


async def test_exemplars_are_the_last_traced_requests(
    traced, collector_over_grpc, hello, dial, request_of
):
    document = hello(server={"http": "127.0.0.1:0"})
    async with traced(collector_over_grpc, document, sample_ratio=0) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of(), metadata=(UNSAMPLED,))
        address = application.http.address
        assert " # {" not in await asyncio.to_thread(scraped, address, OPENMETRICS)
        await stub.ModelInfer(request_of(), metadata=(SAMPLED,))
        text = await asyncio.to_thread(scraped, address, OPENMETRICS)
        plain = await asyncio.to_thread(scraped, address, "text/plain")
    (request,) = collector_over_grpc.requests
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = [
        (sample, sample.exemplar)
        for family in families.values()
        for sample in family.samples
        if sample.exemplar is not None
    ]
    ((sample, exemplar),) = found
    assert sample.name == "batcher_request_duration_seconds_bucket"
    assert sample.labels["outcome"] == "ok"
    assert exemplar.labels == {
        "trace_id": request.trace_id.hex(),
        "span_id": request.span_id.hex(),
    }
    assert sum(len(name) + len(value) for name, value in exemplar.labels.items()) <= 128
    took_s = (request.end_time_unix_nano - request.start_time_unix_nano) / 1e9
    assert exemplar.value == pytest.approx(took_s, abs=1e-6)
    assert exemplar.value <= float(sample.labels["le"])
    assert float(exemplar.timestamp) == pytest.approx(request.end_time_unix_nano / 1e9, abs=0.1)
    assert "trace_id" not in plain


@pytest.fixture
def logged():
    """A function from a format to a stream that the process logs to."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def to(fmt):
        stream = io.StringIO()
        configure_logging("info", fmt, stream)
        return stream

    yield to
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("fmt", ["json", "text"])
async def test_records_of_a_traced_request_have_its_ids(
    traced, collector_over_grpc, hello, dial, request_of, fakes, logged, fmt
):
    document = hello(executor="fake", options={}, batching={"policy": "fixed", "target_p99": "1us"})
    async with traced(
        collector_over_grpc, document, sample_ratio=0, always=["failed", "late"]
    ) as application:
        stream = logged(fmt)
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of())
        fakes[0].fail_next(ExecutionError("it broke", cause="device"))
        with pytest.raises(aio.AioRpcError):
            await stub.ModelInfer(request_of(), metadata=(UNSAMPLED,))
    late, failed = sorted(collector_over_grpc.requests, key=lambda s: s.start_time_unix_nano)
    lines = stream.getvalue().splitlines()
    for span, words in ((late, "answered late"), (failed, "ended failed (device)")):
        (line,) = [line for line in lines if words in line]
        ids = {"trace_id": span.trace_id.hex(), "span_id": span.span_id.hex()}
        if fmt == "json":
            assert ids.items() <= json.loads(line).items()
        else:
            assert line.endswith(f"trace_id={ids['trace_id']} span_id={ids['span_id']}")


async def test_an_internal_error_has_the_ids_of_its_request(
    traced, collector_over_grpc, hello, dial, request_of, logged, monkeypatch
):
    def broken(*_):
        raise ZeroDivisionError

    async with traced(collector_over_grpc, hello(), sample_ratio=1) as application:
        stub = await dial(application.grpc.addresses[0])
        stream = logged("json")
        monkeypatch.setattr("batcher.runtime.replies.answer", broken)
        with pytest.raises(aio.AioRpcError):
            await stub.ModelInfer(request_of())
        monkeypatch.undo()
    (span,) = collector_over_grpc.requests
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (record,) = [line for line in lines if "could not be made" in line["message"]]
    assert record["trace_id"] == span.trace_id.hex()
    assert record["span_id"] == span.span_id.hex()
    assert "ZeroDivisionError" in record["exception"]


@pytest.mark.parametrize("place", ["response_parts", "to_request"])
async def test_an_internal_error_of_the_server_has_them_too(
    traced, collector_over_grpc, hello, dial, request_of, logged, monkeypatch, place
):
    def broken(*_, **__):
        raise ZeroDivisionError

    async with traced(
        collector_over_grpc, hello(), sample_ratio=0, always=["failed"]
    ) as application:
        stub = await dial(application.grpc.addresses[0])
        stream = logged("json")
        monkeypatch.setattr(f"batcher.server.messages.{place}", broken)
        with pytest.raises(aio.AioRpcError):
            await stub.ModelInfer(request_of(), metadata=(UNSAMPLED,))
        call = stub.ModelStreamInfer(metadata=(UNSAMPLED,))
        await call.write(request_of())
        assert (await call.read()).error_message
        await call.done_writing()
        monkeypatch.undo()
    spans = {(span.trace_id.hex(), span.span_id.hex()) for span in collector_over_grpc.requests}
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    records = [line for line in lines if "internal error" in line["message"]]
    assert len(spans) == 2
    assert {(record["trace_id"], record["span_id"]) for record in records} == spans
