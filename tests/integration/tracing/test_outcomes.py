"""What of each outcome a trace says, and what `always` keeps of requests that were not sampled."""

import asyncio

import numpy as np
import pytest
from grpc import aio

from batcher.executor import ExecutionError
from batcher.testing.messages import infer_request

WAIT_S = 30
UNSAMPLED = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),)
ALL = ["late", "failed", "refused"]
STAGES = ["admission", "queue", "gather", "execute", "scatter", "reply"]


def attributes(span):
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def covers_its_time(collector, span):
    """Its stages, one after the other, are all of its time."""
    children = collector.children(span)
    moment = span.start_time_unix_nano
    for stage in STAGES:
        if stage in children:
            assert children[stage].start_time_unix_nano == moment, stage
            moment = children[stage].end_time_unix_nano
    return moment == span.end_time_unix_nano


def the_end(collector):
    """(outcome, reason, code, is an error) of the one request."""
    (span,) = collector.requests
    assert covers_its_time(collector, span)
    found = attributes(span)
    return (
        found["batcher.outcome"],
        found.get("batcher.reason", ""),
        found["rpc.response.status_code"],
        span.status.code == span.status.STATUS_CODE_ERROR,
    )


async def failing(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code().name


async def test_a_batch_that_failed(traced, collector_over_grpc, hello, dial, request_of, fakes):
    collector = collector_over_grpc
    document = hello(executor="fake", options={})
    async with traced(collector, document, sample_ratio=0, always=["failed"]) as application:
        stub = await dial(application.grpc.addresses[0])
        fakes[0].fail_next(ExecutionError("it broke", cause="device"))
        assert await failing(stub.ModelInfer(request_of(), metadata=UNSAMPLED)) == "UNAVAILABLE"
    assert the_end(collector) == ("failed", "device", "UNAVAILABLE", True)
    (request,), (batch,) = collector.requests, collector.named("batch")
    assert attributes(batch)["batcher.batch.failed"] is True
    assert attributes(batch)["error.type"] == "device"
    assert batch.status.code == batch.status.STATUS_CODE_ERROR
    assert [link.span_id for link in batch.links] == [request.span_id]
    execute = collector.children(request)["execute"]
    assert [link.span_id for link in execute.links] == [batch.span_id]
    assert batch.parent_span_id == execute.span_id


@pytest.mark.parametrize(
    ("request_fields", "end"),
    [
        ({"name": "nothing"}, ("rejected", "unknown_model", "NOT_FOUND", False)),
        ({"input": "Z"}, ("rejected", "invalid", "INVALID_ARGUMENT", False)),
        ({"raw": b"1"}, ("rejected", "invalid", "INVALID_ARGUMENT", False)),
        ({"rows": 5000}, ("rejected", "invalid", "INVALID_ARGUMENT", False)),
    ],
)
async def test_requests_that_are_refused(
    traced, collector_over_grpc, hello, dial, request_fields, end
):
    collector = collector_over_grpc
    rows = request_fields.get("rows", 1)
    request = infer_request(
        request_fields.get("name", "hello"),
        {request_fields.get("input", "X"): np.ones((rows, 4), np.float32)},
        id="it",
    )
    if "raw" in request_fields:
        request.raw_input_contents[0] = request_fields["raw"]
    async with traced(collector, hello(), sample_ratio=0, always=["refused"]) as application:
        stub = await dial(application.grpc.addresses[0])
        assert await failing(stub.ModelInfer(request, metadata=UNSAMPLED)) == end[2]
    assert the_end(collector) == end
    (span,) = collector.requests
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert attributes(span)["batcher.request.id"] == "it"
    assert "batcher.rows" not in attributes(span)  # not known, and never 0
    assert not collector.named("batch")


async def test_a_message_that_cannot_be_read(traced, collector_over_grpc, hello):
    collector = collector_over_grpc
    async with (
        traced(collector, hello(), sample_ratio=0, always=["refused"]) as application,
        aio.insecure_channel(application.grpc.addresses[0]) as channel,
    ):
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert await failing(call(b"\xff\xff", metadata=UNSAMPLED)) == "INVALID_ARGUMENT"
    assert the_end(collector) == ("rejected", "invalid", "INVALID_ARGUMENT", False)


async def test_a_late_answer_names_its_hop(traced, collector_over_grpc, hello, dial, request_of):
    collector = collector_over_grpc
    batching = {"policy": "fixed", "target_p99": "1ms"}
    document = hello(base="20ms", batching=batching)
    async with traced(collector, document, sample_ratio=0, always=["late"]) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of(), metadata=UNSAMPLED)
    assert the_end(collector) == ("ok", "", "OK", False)
    (span,) = collector.requests
    assert attributes(span)["batcher.late"] is True
    assert attributes(span)["batcher.late_hop"] == "execute"
    assert attributes(span)["batcher.target_ms"] == 1


async def test_what_expires_in_the_queue_is_late(
    traced, collector_over_grpc, hello, dial, request_of, fakes
):
    collector = collector_over_grpc
    document = hello(executor="fake", options={}, queue={"timeout": "20ms"})
    async with traced(collector, document, sample_ratio=0, always=["late"]) as application:
        stub = await dial(application.grpc.addresses[0])
        hang = fakes[0].hang_next()
        running = asyncio.ensure_future(stub.ModelInfer(request_of(), metadata=UNSAMPLED))
        await asyncio.to_thread(hang.wait_entered, WAIT_S)
        waiting = stub.ModelInfer(request_of(), metadata=UNSAMPLED)
        assert await failing(waiting) == "DEADLINE_EXCEEDED"
        hang.release()
        await running
    assert the_end(collector) == ("expired", "queue_timeout", "DEADLINE_EXCEEDED", True)
    (span,) = collector.requests
    assert set(collector.children(span)) == {"admission", "queue", "reply"}


async def test_what_is_cancelled_is_kept_only_if_it_is_sampled(
    traced, collector_over_grpc, hello, dial, request_of, eventually
):
    collector = collector_over_grpc
    batching = {"policy": "fixed", "max_batch_size": 8, "max_queue_delay": "30s"}
    async with traced(
        collector, hello(batching=batching), sample_ratio=0, always=ALL
    ) as application:
        stub = await dial(application.grpc.addresses[0])
        sampled = (("traceparent", UNSAMPLED[0][1][:-2] + "01"),)
        calls = [stub.ModelInfer(request_of(), metadata=each) for each in (UNSAMPLED, sampled)]
        await eventually(lambda: application.batcher.unanswered == 2)
        for call in calls:
            call.cancel()
        await eventually(lambda: application.batcher.unanswered == 0)
    assert the_end(collector) == ("cancelled", "caller_cancelled", "CANCELLED", False)


async def test_what_ends_well_is_not_kept(traced, collector_over_grpc, hello, dial, request_of):
    collector = collector_over_grpc
    async with traced(collector, hello(), sample_ratio=0, always=ALL) as application:
        stub = await dial(application.grpc.addresses[0])
        await asyncio.gather(
            *(stub.ModelInfer(request_of(), metadata=UNSAMPLED) for _ in range(10)),
            *(stub.ModelInfer(request_of()) for _ in range(10)),
        )
        assert not application._tracing.tracer._batches
    assert not collector.spans


async def test_one_traced_request_of_a_batch(traced, collector_over_grpc, hello, dial, request_of):
    collector = collector_over_grpc
    batching = {"policy": "fixed", "max_batch_size": 3, "max_queue_delay": "30s"}
    async with traced(collector, hello(batching=batching), sample_ratio=0) as application:
        stub = await dial(application.grpc.addresses[0])
        sampled = (("traceparent", UNSAMPLED[0][1][:-2] + "01"),)
        every = (UNSAMPLED, sampled, ())
        await asyncio.gather(*(stub.ModelInfer(request_of(), metadata=each) for each in every))
    (request,), (batch,) = collector.requests, collector.named("batch")
    assert attributes(batch)["batcher.batch.requests"] == 3
    assert [link.span_id for link in batch.links] == [request.span_id]


async def test_a_request_in_several_batches_has_links_to_all(
    traced, collector_over_grpc, hello, dial, request_of
):
    collector = collector_over_grpc
    batching = {"policy": "fixed", "max_batch_size": 4}
    async with traced(collector, hello(batching=batching)) as application:
        stub = await dial(application.grpc.addresses[0])
        await stub.ModelInfer(request_of(rows=10))
    (request,) = collector.requests
    batches = collector.named("batch")
    assert len(batches) == 3
    execute = next(s for s in collector.spans if s.name == "execute")
    assert {link.span_id for link in execute.links} == {batch.span_id for batch in batches}
    for batch in batches:
        assert [link.span_id for link in batch.links] == [request.span_id]
        assert batch.parent_span_id == execute.span_id
    assert attributes(request)["batcher.attempts"] == 3


@pytest.mark.parametrize("shared", [True, False])
async def test_what_the_caller_has_spent(
    traced, collector_over_grpc, hello, dial, request_of, shared
):
    """It makes an answer late only where the budget has a share for it."""
    collector = collector_over_grpc
    more = {"budget": {"upstream": "1s"}} if shared else {}
    document = hello(batching={"target_p99": "60s"}, **more)
    async with traced(collector, document, sample_ratio=0, always=["late"]) as application:
        stub = await dial(application.grpc.addresses[0])
        spent = ("x-batcher-spent-ms", "59999.9")
        sampled = ("traceparent", UNSAMPLED[0][1][:-2] + "01")
        await stub.ModelInfer(request_of(id="unsampled"), metadata=(*UNSAMPLED, spent))
        await stub.ModelInfer(request_of(id="sampled"), metadata=(sampled, spent))
    found = {
        attributes(span)["batcher.request.id"]: attributes(span) for span in collector.requests
    }
    assert set(found) == ({"unsampled", "sampled"} if shared else {"sampled"})
    for of_request in found.values():
        assert of_request["batcher.upstream_spent_ms"] == pytest.approx(59_999.9)
        assert of_request["batcher.late"] is shared
        assert of_request.get("batcher.late_hop") == ("upstream" if shared else None)
