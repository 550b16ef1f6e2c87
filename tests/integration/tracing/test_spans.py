"""The spans and links of requests and batches, as a collector receives them."""

import asyncio

import pytest

STAGES = ["admission", "queue", "gather", "execute", "scatter", "reply"]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
THREE = {"policy": "fixed", "max_batch_size": 3, "max_queue_delay": "30s", "target_p99": "60s"}


@pytest.fixture(params=("grpcio", "builtin"))
def transport(request):
    """Both: a collector notices no difference."""
    return request.param


def traceparent(flags="01", trace=TRACE, parent=PARENT):
    return ("traceparent", f"00-{trace}-{parent}-{flags}")


def attributes(span):
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def linked(span):
    return {(link.trace_id, link.span_id) for link in span.links}


def identity(span):
    return span.trace_id, span.span_id


async def test_a_batch_of_three_requests(traced, collector, hello, dial, request_of):
    document = hello(batching=THREE, name="hello")
    async with traced(collector, document, service_name="front") as application:
        stub = await dial(application.grpc.addresses[0])
        own = (traceparent(), ("tracestate", "vendor=a"))
        await asyncio.gather(
            stub.ModelInfer(request_of(id="first"), metadata=own),
            stub.ModelInfer(request_of(id="second"), metadata=(("x-batcher-tenant", "gold"),)),
            stub.ModelInfer(request_of(id="third")),
        )
    assert collector.resource["service.name"] == "front"
    assert len(collector.requests) == 3
    (batch,) = collector.named("batch")
    by_id = {attributes(span)["batcher.request.id"]: span for span in collector.requests}

    first = by_id["first"]
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert first.trace_state == "vendor=a"
    assert not by_id["second"].parent_span_id
    assert len({span.trace_id for span in collector.requests}) == 3

    for span in collector.requests:
        assert span.name == "inference.GRPCInferenceService/ModelInfer"
        found = attributes(span)
        assert found["rpc.system.name"] == "grpc"
        assert found["rpc.response.status_code"] == "OK"
        assert found["batcher.model"] == "hello"
        assert found["batcher.outcome"] == "ok"
        assert found["batcher.rows"] == 1
        assert found["batcher.batch.rows"] == 3
        assert found["batcher.late"] is False
        assert found["batcher.target_ms"] == 60_000
        assert span.status.code == span.status.STATUS_CODE_UNSET
        children = collector.children(span)
        assert set(STAGES) <= set(children)
        # The stages are all of the request's time, one after the other.
        moment = span.start_time_unix_nano
        for stage in STAGES:
            assert children[stage].start_time_unix_nano == moment
            moment = children[stage].end_time_unix_nano
        assert moment == span.end_time_unix_nano
        assert linked(children["execute"]) == {identity(batch)}
    assert attributes(by_id["second"])["batcher.tenant"] == "gold"

    assert linked(batch) == {identity(span) for span in collector.requests}
    found = attributes(batch)
    assert (found["batcher.batch.rows"], found["batcher.batch.requests"]) == (3, 3)
    assert found["batcher.device"] == "cpu"
    assert found["batcher.instance"]
    assert found["batcher.batch.failed"] is False
    executes = [collector.children(span)["execute"] for span in collector.requests]
    assert (batch.trace_id, batch.parent_span_id) in {identity(span) for span in executes}
    events = {event.name: event.time_unix_nano for event in batch.events}
    for span in executes:
        assert span.start_time_unix_nano == events["executing"]
        assert span.end_time_unix_nano == events["executed"]


async def test_requests_of_a_stream(traced, collector_over_grpc, hello, dial, request_of):
    collector = collector_over_grpc
    async with traced(collector, hello()) as application:
        stub = await dial(application.grpc.addresses[0])
        call = stub.ModelStreamInfer(metadata=(traceparent(),))
        for _ in range(3):
            await call.write(request_of())
        await call.done_writing()
        assert [answer.error_message async for answer in call] == [""] * 3
    assert len(collector.requests) == 3
    for span in collector.requests:
        assert span.name == "inference.GRPCInferenceService/ModelStreamInfer"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)


@pytest.mark.parametrize(
    "parent",
    [
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
async def test_malformed_contexts_are_ignored(
    traced, collector_over_grpc, hello, dial, request_of, parent
):
    collector = collector_over_grpc
    async with traced(collector, hello()) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of(), metadata=(("traceparent", parent),))
    (span,) = collector.requests
    assert not span.parent_span_id
    assert span.trace_id.hex() != TRACE


async def test_the_decision_of_the_caller_is_followed(
    traced, collector_over_grpc, hello, dial, request_of
):
    collector = collector_over_grpc
    async with traced(collector, hello(), sample_ratio=0.0) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of(), metadata=(traceparent("00"),))
        await stub.ModelInfer(request_of())
        await stub.ModelInfer(request_of(id="kept"), metadata=(traceparent("01"),))
    (span,) = collector.requests
    assert attributes(span)["batcher.request.id"] == "kept"
