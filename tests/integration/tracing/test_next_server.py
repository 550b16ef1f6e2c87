"""The trace context that an executor sends on: the batch's, in the trace of its first sampled request."""

import asyncio

import numpy as np
import pytest

from batcher import plugins
from batcher.executor import BatchResult, Capabilities, ModelMetadata, TensorSpec
from batcher.runtime.interface.forwarded import MAX_FORWARDED

NAMES = ("traceparent", "tracestate", "baggage", "x-own")
BATCHING = {"policy": "fixed", "max_batch_size": 2, "max_queue_delay": "30s"}


def parent(digit, flags):
    return ("traceparent", f"00-{digit * 32}-{digit * 16}-{flags}")


class Neighbor:
    """Keeps the metadata of every batch."""

    capabilities = Capabilities(max_in_flight=4)

    def __init__(self):
        self.metadata = []

    async def load(self, context):
        return ModelMetadata(
            "neighbor",
            inputs=(TensorSpec("X", "FP32", (-1, 4)),),
            outputs=(TensorSpec("Y", "FP32", (-1, 4)),),
            metadata=NAMES,
        )

    async def execute(self, batch):
        self.metadata.append(dict(batch.metadata))
        return BatchResult({"Y": np.array(batch.inputs["X"])})

    async def close(self):
        pass


@pytest.fixture
def neighbor(monkeypatch):
    made, real = Neighbor(), plugins.find_executor
    monkeypatch.setattr(
        plugins,
        "find_executor",
        lambda name: (lambda: made) if name == "neighbor" else real(name),
    )
    return made


@pytest.fixture
def send(traced, collector_over_grpc, hello, dial, request_of, neighbor):
    """Send two requests with this metadata, which share a batch."""

    async def send(*both, **section):
        document = hello(executor="neighbor", options={}, batching=BATCHING)
        async with traced(collector_over_grpc, document, **section) as application:
            stub = await dial(application.grpc.addresses[0])
            await asyncio.gather(*(stub.ModelInfer(request_of(), metadata=m) for m in both))
        return collector_over_grpc

    return send


async def test_the_next_server_is_below_the_batch(send, neighbor):
    collector = await send(
        (parent("a", "00"), ("tracestate", "v=a"), ("baggage", "of=a")),
        (parent("b", "01"), ("tracestate", "v=b"), ("baggage", "of=b")),
        sample_ratio=0,
    )
    (sent,), (batch,) = neighbor.metadata, collector.named("batch")
    assert sent["traceparent"] == f"00-{'b' * 32}-{batch.span_id.hex()}-01"
    assert sent["tracestate"] == "v=b"
    assert sent["baggage"] == "of=b"
    (request,) = collector.requests
    assert batch.trace_id == request.trace_id == bytes.fromhex("b" * 32)
    assert batch.parent_span_id == collector.children(request)["execute"].span_id
    assert batch.trace_state == "v=b"


async def test_requests_without_a_context_get_one(send, neighbor):
    collector = await send((), (), sample_ratio=1)
    (sent,), (batch,) = neighbor.metadata, collector.named("batch")
    assert sent == {"traceparent": f"00-{batch.trace_id.hex()}-{batch.span_id.hex()}-01"}
    assert batch.trace_id in {span.trace_id for span in collector.requests}


async def test_what_is_not_sampled_is_not_sampled_there_either(send, neighbor):
    collector = await send((parent("a", "00"),), (), sample_ratio=0)
    (sent,) = neighbor.metadata
    assert sent["traceparent"].endswith("-00")
    assert not collector.spans


async def test_the_context_never_makes_a_batch_fail(send, neighbor):
    """What the callers send on by themselves may be as large as it may be."""
    large = ("x-own", "x" * (MAX_FORWARDED - len("x-own")))
    await send((large,), (large,), sample_ratio=1)
    assert neighbor.metadata == [{"x-own": large[1]}]
