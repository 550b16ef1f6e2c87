"""Bad requests over a real socket: each gets a clear status, and other requests are served."""

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher import protocol
from batcher.executor import ModelMetadata, TensorSpec
from batcher.protocol import inference
from batcher.testing.messages import infer_request, output_arrays

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def good():
    return infer_request("hello", {"X": np.ones((1, 4), np.float32)})


def changed(**fields):
    """A good request with other fields."""
    request = good()
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def inputs(**arrays):
    return infer_request("hello", arrays)


def raw_of(length):
    request = good()
    request.raw_input_contents[0] = bytes(length)
    return request


def mixed():
    request = good()
    request.inputs[0].contents.fp32_contents.extend([1.0] * 4)
    return request


def typed(values):
    request = good()
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1.0] * values)
    return request


def malformed_bytes():
    """A BYTES element whose length is larger than what follows."""
    request = inference.ModelInferRequest(model_name="hello")
    request.inputs.add(name="X", datatype="BYTES", shape=[1, 4])
    request.raw_input_contents.append(b"\xff\x00\x00\x00" * 4)
    return request


def parameter(name, **choice):
    request = good()
    for field, value in choice.items():
        setattr(request.parameters[name], field, value)
    return request


def output(name):
    request = good()
    request.outputs.add(name=name)
    return request


ROW = np.ones((1, 4), np.float32)

BAD = {
    "unknown model": (changed(model_name="unknown"), NOT_FOUND, "unknown", "hello"),
    "no model": (changed(model_name=""), INVALID, "names no model"),
    "unknown version": (changed(model_version="7"), NOT_FOUND, "hello", "'7'", "known versions: 1"),
    "unknown input": (inputs(X=ROW, Z=ROW), INVALID, "hello", "'Z'", "inputs are X"),
    "unknown output": (output("Z"), INVALID, "hello", "'Z'", "Y, BATCH"),
    "missing input": (inputs(Z=ROW), INVALID, "hello", "'X' is missing", "FP32", "[-1, 4]"),
    "no inputs": (inputs(), INVALID, "hello", "input 'X' is missing"),
    "wrong dtype": (inputs(X=ROW.astype(np.float64)), INVALID, "'X' must be FP32", "FP64"),
    "wrong rank": (inputs(X=np.ones(4, np.float32)), INVALID, "'X'", "[-1, 4]", "got [4]"),
    "wrong dimension": (inputs(X=np.ones((1, 5), np.float32)), INVALID, "[-1, 4]", "got [1, 5]"),
    "no rows axis": (inputs(X=np.float32(1).reshape(())), INVALID, "'X'", "got []"),
    "raw too short": (raw_of(15), INVALID, "'X'", "expected 16 bytes", "got 15"),
    "raw too long": (raw_of(17), INVALID, "'X'", "expected 16 bytes", "got 17"),
    "raw and typed": (mixed(), INVALID, "'X'", "send only one of them"),
    "typed too short": (typed(3), INVALID, "'X'", "expected 4 elements", "got 3"),
    "malformed BYTES": (malformed_bytes(), INVALID, "'X'", "BYTES element 0", "the length 255"),
    "zero rows": (inputs(X=np.ones((0, 4), np.float32)), INVALID, "'X' has zero rows"),
    "too many rows": (
        inputs(X=np.ones((1025, 4), np.float32)),
        INVALID,
        "1025 rows",
        "at most 1024",
    ),
    "unknown reserved parameter": (parameter("triton_x", bool_param=True), INVALID, "'triton_x'"),
    "wrong parameter type": (parameter("priority", string_param="1"), INVALID, "'priority'"),
}


@pytest.fixture
async def application(start, hello):
    return await start(hello())


@pytest.fixture
async def stub(application, dial):
    return await dial(application.grpc.addresses[0])


async def still_serves(stub):
    outputs = output_arrays(await stub.ModelInfer(good()))
    assert np.array_equal(outputs["Y"], 2 * ROW)


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_request_gets_a_clear_status_and_the_next_is_served(stub, application, case):
    request, code, *words = BAD[case]

    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request)

    assert caught.value.code() is code
    for word in words:
        assert word in caught.value.details()
    assert "Traceback" not in caught.value.details()
    await still_serves(stub)
    assert application.batcher.unanswered == 0


async def test_a_stream_answers_bad_requests_by_id_and_goes_on(stub):
    call = stub.ModelStreamInfer()
    for number, (request, *_) in enumerate(BAD.values()):
        request.id = f"bad {number}"
        await call.write(request)
    await call.write(changed(id="good"))
    await call.done_writing()

    answers = [answer async for answer in call]

    assert await call.code() is grpc.StatusCode.OK
    assert len(answers) == len(BAD) + 1
    for number, (answer, (_, _, *words)) in enumerate(zip(answers[:-1], BAD.values(), strict=True)):
        assert answer.infer_response.id == f"bad {number}"
        assert all(word in answer.error_message for word in words)
    assert not answers[-1].error_message
    assert answers[-1].infer_response.id == "good"


CORRUPT = b"\x0a\xff\xff\xff\xff\x0f"
METHODS = sorted(protocol.methods(protocol.INFERENCE))
OFFERED = [
    "ModelConfig",
    "ModelInfer",
    "ModelMetadata",
    "ModelReady",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "ServerLive",
    "ServerMetadata",
    "ServerReady",
]


@pytest.mark.parametrize("name", OFFERED)
async def test_a_corrupt_message_is_invalid(application, stub, name):
    method = protocol.methods(protocol.INFERENCE)[name]
    async with aio.insecure_channel(application.grpc.addresses[0]) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary(method.path)(CORRUPT)

    assert caught.value.code() is INVALID
    assert f"({len(CORRUPT)} bytes) is not a valid {method.request.__name__}" in (
        caught.value.details()
    )
    await still_serves(stub)


async def test_requests_other_than_inference_are_limited_in_size(application, stub):
    large = inference.ModelMetadataRequest(name="x" * protocol.MAX_CONTROL_BYTES)
    text = f"a ModelMetadataRequest may have at most {protocol.MAX_CONTROL_BYTES} bytes, got"
    with pytest.raises(aio.AioRpcError, match=text) as caught:
        await stub.ModelMetadata(large)

    assert caught.value.code() is INVALID
    await still_serves(stub)


async def test_requests_of_other_services_are_limited_in_size(application, stub):
    method = protocol.methods(protocol.HEALTH)["Check"]
    async with aio.insecure_channel(application.grpc.addresses[0]) as channel:
        large = protocol.health.HealthCheckRequest(service="x" * protocol.MAX_CONTROL_BYTES)
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary(method.path)(large.SerializeToString())

    assert caught.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    await still_serves(stub)


async def test_a_corrupt_message_on_a_stream_is_an_answer(application, stub):
    path = protocol.methods(protocol.INFERENCE)["ModelStreamInfer"].path
    async with aio.insecure_channel(application.grpc.addresses[0]) as channel:
        call = channel.stream_stream(path)()
        await call.write(CORRUPT)
        await call.write(good().SerializeToString())
        await call.done_writing()
        answers = [inference.ModelStreamInferResponse.FromString(data) async for data in call]

    assert "not a valid ModelInferRequest" in answers[0].error_message
    assert answers[1].infer_response.model_name == "hello"
    await still_serves(stub)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {*OFFERED, "ModelStreamInfer"}))
async def test_a_method_that_is_not_supported_is_unimplemented(application, name):
    method = protocol.methods(protocol.INFERENCE)[name]
    async with aio.insecure_channel(application.grpc.addresses[0]) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary(method.path)(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("text", ["-1", "high", "1.5", "", "9" * 5000])
async def test_a_priority_that_is_not_a_number_is_invalid(stub, text):
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(good(), metadata=[("x-batcher-priority", text)])
    assert caught.value.code() is INVALID
    assert "x-batcher-priority" in caught.value.details()
    await still_serves(stub)


async def test_a_defect_of_the_server_is_internal_without_details(
    application, stub, monkeypatch, caplog
):
    async def broken(*_):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(application.batcher, "answer", broken)

    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(good())
    call = stub.ModelStreamInfer()
    await call.write(changed(id="s"))
    await call.done_writing()
    (answer,) = [answer async for answer in call]

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()
    assert "secret" not in answer.error_message
    assert answer.infer_response.id == "s"
    assert caplog.text.count("ZeroDivisionError: a secret") == 2
    monkeypatch.undo()
    await still_serves(stub)


async def test_a_defect_of_the_server_in_a_control_call_is_internal(application, stub, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(application.batcher.models, "find", broken)
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelMetadata(inference.ModelMetadataRequest(name="hello"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()


async def test_every_bad_request_is_counted_once(application, stub):
    for request, *_ in BAD.values():
        with pytest.raises(aio.AioRpcError):
            await stub.ModelInfer(request)

    total = application.registry.get_sample_value
    await application.batcher.idle()  # a call ends for its caller before it does here
    model = {"model": "hello", "version": "1", "outcome": "rejected", "reason": "invalid"}
    unknown = {"model": "", "version": "", "outcome": "rejected", "reason": "unknown_model"}
    assert total("batcher_requests_total", unknown) == 2  # an unknown model, an unknown version
    nameless = unknown | {"reason": "invalid"}
    assert total("batcher_requests_total", nameless) == 1
    assert total("batcher_requests_total", model) == len(BAD) - 3


async def test_inputs_that_disagree_on_the_rows_are_invalid(start, hello, fakes, dial):
    two = [TensorSpec(name, "FP32", (-1, 4)) for name in ("X", "Z")]
    fakes.options["metadata"] = ModelMetadata(
        "fake", tuple(two), (TensorSpec("Y", "FP32", (-1, 4)),)
    )
    application = await start(hello(executor="fake", options={}))
    stub = await dial(application.grpc.addresses[0])

    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(inputs(X=np.ones((2, 4), np.float32), Z=np.ones((3, 4), np.float32)))

    assert caught.value.code() is INVALID
    assert "have different numbers of rows: 'Z' has 3" in caught.value.details()
    reply = await stub.ModelInfer(inputs(X=ROW, Z=ROW))
    assert np.array_equal(output_arrays(reply)["Y"], 2 * ROW)
