"""What executors that send batches on get of a call, and what callers get of their failures."""

import asyncio
import struct
import time

import grpc
import numpy as np
import pytest

from batcher import plugins
from batcher.clock import SECOND
from batcher.executor import (
    BatchResult,
    Capabilities,
    ExecutionError,
    ModelMetadata,
    TensorSpec,
)
from batcher.protocol import inference
from batcher.runtime.instances import watching

WAIT_S = 20
PUSHBACK = "grpc-retry-pushback-ms"


class Neighbor:
    """Echoes the floats of its raw input, unless a test says otherwise; keeps every batch."""

    capabilities = Capabilities(raw=True, max_in_flight=4)

    def __init__(self):
        self.batches = []
        self.error = None
        self.hold = False
        self.cancelled = 0
        self.columns = 4
        self.changed = asyncio.Event()
        self.report = None
        self.names = ()

    async def load(self, context):
        return ModelMetadata(
            "neighbor",
            inputs=(
                TensorSpec("X", "FP32", (-1, self.columns)),
                TensorSpec("T", "BYTES", (-1, 2), optional=True),
            ),
            outputs=(TensorSpec("Y", "FP32", (-1, self.columns)),),
            metadata=self.names,
        )

    async def execute(self, batch):
        self.batches.append(batch)
        if self.hold:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error
        rows = np.frombuffer(b"".join(batch.raw["X"]), np.float32)
        return BatchResult({"Y": rows.reshape(batch.shapes["X"])})

    async def watch(self, report):
        self.report = report
        await self.changed.wait()

    async def close(self):
        pass


@pytest.fixture
def neighbors(monkeypatch):
    """Every neighbor's executor that was made; `set` is what the next ones begin with."""

    class Neighbors(list):
        def __init__(self):
            self.set = {}

        def make(self):
            made = Neighbor()
            vars(made).update(self.set)
            self.append(made)
            return made

    made, real = Neighbors(), plugins.find_executor
    monkeypatch.setattr(
        plugins, "find_executor", lambda name: made.make if name == "neighbor" else real(name)
    )
    return made


@pytest.fixture
def serve_neighbor(start, hello, dial, neighbors):
    async def serve(*, status_codes="standard", **settings):
        neighbors.set |= settings
        document = hello(executor="neighbor", options={}, server={"status_codes": status_codes})
        application = await start(document)
        return application, await dial(application.grpc.addresses[0])

    return serve


NAMES = ("authorization", "x-route", "x-key-bin", "traceparent", "grpc-trace-bin")


async def test_metadata_that_the_executor_names_is_sent_on_and_no_other(
    serve_neighbor, neighbors, request_of, transport
):
    _, stub = await serve_neighbor(names=NAMES)
    secret = (("cookie", "secret"), ("x-other-bin", b"secret"), ("x-batcher-tenant", "secret"))
    named = (
        ("authorization", "Bearer token"),
        ("x-route", "a"),
        ("x-route", "b"),
        ("x-key-bin", b"\x00\xff\x80 bytes"),
        ("traceparent", "00-1"),
        ("grpc-trace-bin", b"\x00trace"),
    )
    await stub.ModelInfer(request_of(), metadata=(*named, *secret), timeout=WAIT_S)
    await stub.ModelInfer(request_of(), metadata=secret, timeout=WAIT_S)
    first, second = neighbors[0].batches
    # grpcio's server keeps this one to itself.
    own = {"grpc-trace-bin": b"\x00trace"} if transport == "builtin" else {}
    assert first.metadata == own | {
        "authorization": "Bearer token",
        "x-route": "a,b",
        "x-key-bin": b"\x00\xff\x80 bytes",
        "traceparent": "00-1",
    }
    assert second.metadata == {}
    assert "secret" not in repr((first.parameters, second.parameters, first.metadata))


async def test_metadata_of_a_stream_is_sent_on(serve_neighbor, neighbors, request_of):
    _, stub = await serve_neighbor(names=NAMES)
    call = stub.ModelStreamInfer(metadata=(("x-route", "s"), ("cookie", "secret")), timeout=WAIT_S)
    await call.write(request_of())
    assert not (await call.read()).error_message
    await call.done_writing()
    assert neighbors[0].batches[0].metadata == {"x-route": "s"}


async def test_metadata_that_is_too_large_or_ambiguous_is_refused(serve_neighbor, request_of):
    _, stub = await serve_neighbor(names=NAMES)
    for metadata, said in (
        ((("x-route", "r" * 5000), ("authorization", "a" * 3200)), "bytes are to be sent on"),
        ((("x-key-bin", b"a"), ("x-key-bin", b"b")), "x-key-bin may have one value"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(request_of(), metadata=metadata, timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert said in caught.value.details()


async def test_raw_and_typed_contents_arrive_as_they_are_on_the_wire(
    serve_neighbor, neighbors, request_of
):
    _, stub = await serve_neighbor()
    texts = [b"a", b"", b"\xff\x00", b"long enough"]
    encoded = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    floats = np.arange(8, dtype=np.float32).reshape(2, 4)
    raw = inference.ModelInferRequest(model_name="hello")
    raw.inputs.add(name="X", datatype="FP32", shape=[2, 4])
    raw.inputs.add(name="T", datatype="BYTES", shape=[2, 2])
    raw.raw_input_contents.extend([floats.tobytes(), encoded])
    typed = inference.ModelInferRequest(model_name="hello")
    values = typed.inputs.add(name="X", datatype="FP32", shape=[2, 4])
    values.contents.fp32_contents.extend(floats.reshape(-1).tolist())
    strings = typed.inputs.add(name="T", datatype="BYTES", shape=[2, 2])
    strings.contents.bytes_contents.extend(texts)
    for request in (raw, typed):
        answer = await stub.ModelInfer(request, timeout=WAIT_S)
        assert answer.raw_output_contents[0] == floats.tobytes()
        batch = neighbors[0].batches[-1]
        assert batch.inputs == {}
        assert b"".join(batch.raw["T"]) == encoded
        assert batch.shapes == {"X": (2, 4), "T": (2, 2)}


async def test_malformed_raw_contents_are_refused_before_they_are_sent_on(
    serve_neighbor, neighbors
):
    _, stub = await serve_neighbor()
    request = inference.ModelInferRequest(model_name="hello")
    request.inputs.add(name="X", datatype="FP32", shape=[1, 4])
    request.inputs.add(name="T", datatype="BYTES", shape=[1, 2])
    request.raw_input_contents.extend([bytes(16), b"\xff\xff\xff\xff\0\0\0\0"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'T': BYTES element 0 has the length 4294967295" in caught.value.details()
    assert neighbors[0].batches == []


@pytest.mark.parametrize(
    ("style", "cause", "code", "text"),
    [
        ("standard", "overloaded", "RESOURCE_EXHAUSTED", "is overloaded, and has not executed"),
        ("standard", "unavailable", "UNAVAILABLE", "is unavailable; it may have executed"),
        ("triton", "overloaded", "UNAVAILABLE", "Exceeds maximum queue size (hello: the backend"),
        ("triton", "unavailable", "UNAVAILABLE", "hello: the backend that executes the model"),
    ],
)
async def test_backends_that_turn_batches_away(
    serve_neighbor, neighbors, request_of, style, cause, code, text
):
    application, stub = await serve_neighbor(status_codes=style)
    said = "triton:8001 says no"
    neighbors[0].error = ExecutionError(said, cause=cause, retry_after_ns=3 * SECOND)
    calls = [stub.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(8)]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode[code]
        assert text in caught.value.details()
        assert said in caught.value.details()
        assert dict(caught.value.trailing_metadata())[PUSHBACK] == "3000"
    # No row was sent twice, the model stays ready, and all of it is counted as what it is.
    assert sum(batch.rows for batch in neighbors[0].batches) == 8
    assert application.health().ready
    await application.batcher.idle()  # a call ends for its caller before it does here
    (model,) = application.models
    counts = {reason: count for (_, reason), count in model.telemetry.requests.items() if count}
    assert counts == {f"backend_{cause}": 8}
    assert model.telemetry.unfinished[cause] == len(neighbors[0].batches)
    neighbors[0].error = None
    assert await stub.ModelInfer(request_of(), timeout=WAIT_S)


async def test_a_batch_knows_when_its_last_caller_stops_waiting(
    serve_neighbor, neighbors, request_of
):
    _, stub = await serve_neighbor()
    began_ns = time.monotonic_ns()
    await stub.ModelInfer(request_of(), timeout=WAIT_S)
    await stub.ModelInfer(request_of())
    bounded, unbounded = neighbors[0].batches
    assert 0 < bounded.deadline_ns - began_ns <= (WAIT_S + 1) * SECOND
    assert unbounded.deadline_ns is None


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
async def test_a_batch_that_no_caller_waits_for_is_cancelled(
    serve_neighbor, neighbors, request_of, eventually, how
):
    _, stub = await serve_neighbor(hold=True)
    neighbor = neighbors[0]
    timeout_s = 0.05 if how == "deadline" else WAIT_S
    call = stub.ModelInfer(request_of(), timeout=timeout_s)
    await eventually(lambda: neighbor.batches or call.done())
    if how == "cancelled":
        call.cancel()
    await eventually(lambda: neighbor.cancelled == len(neighbor.batches) and call.done())
    neighbor.hold = False
    assert await stub.ModelInfer(request_of(), timeout=WAIT_S)


async def test_what_a_watch_reports_and_its_end(
    serve_neighbor, neighbors, request_of, eventually, monkeypatch
):
    monkeypatch.setattr(watching, "SETTLED_S", 0.0)
    application, stub = await serve_neighbor()
    ready = inference.ModelReadyRequest(name="hello")
    await eventually(lambda: neighbors[0].report is not None)
    neighbors[0].report("triton:8001 is not ready")
    assert not (await stub.ModelReady(ready)).ready
    assert application.health().models[0].reason == "triton:8001 is not ready"
    neighbors[0].report("")
    assert (await stub.ModelReady(ready)).ready
    # The neighbor's model has other inputs now: another generation is loaded, and takes over.
    neighbors.set["columns"] = 2
    neighbors[0].changed.set()
    await eventually(lambda: len(neighbors) == 2 and neighbors[1].report is not None)
    request = inference.ModelInferRequest(model_name="hello")
    request.inputs.add(name="X", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(bytes(8))
    assert (await stub.ModelInfer(request, timeout=WAIT_S)).raw_output_contents == [bytes(8)]
    assert (await stub.ModelReady(ready)).ready
