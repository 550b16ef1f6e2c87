"""With `status_codes: triton`: the texts that clients written for Triton compare with or search for."""

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher.protocol import inference
from batcher.testing.messages import infer_request

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ROW = np.ones((1, 4), np.float32)
NO_ID = "[request id: <id_unknown>] "


@pytest.fixture
async def stub(start, hello, dial):
    server = {"status_codes": "triton"}
    queue = {"max_batches_per_request": 1}
    document = hello(server=server, batching={"max_batch_size": 8}, queue=queue)
    application = await start(document)
    return await dial(application.grpc.addresses[0])


def inputs(**arrays):
    return infer_request("hello", arrays)


def changed(change):
    request = inputs(X=ROW)
    change(request)
    return request


REFUSED = {
    "unknown model": (
        infer_request("unknown", {"X": ROW}),
        "Request for unknown model: 'unknown' is not found",
    ),
    "unknown version": (
        infer_request("hello", {"X": ROW}, model_version="9"),
        "Request for unknown model: 'hello' version 9 is not found",
    ),
    "unknown input": (inputs(Z=ROW), "unexpected inference input 'Z' for model 'hello'"),
    "unknown output": (
        changed(lambda r: r.outputs.add(name="Z")),
        "unexpected inference output 'Z' for model 'hello'",
    ),
    "no inputs": (
        inputs(),
        (
            f"{NO_ID}expected 1 inputs but got 0 inputs for model 'hello'. Got input(s) [], but missing"
            " required input(s) ['X']. Please provide all required input(s)."
        ),
    ),
    "too many inputs": (
        inputs(X=ROW, Z=ROW),
        (
            f"{NO_ID}expected 1 inputs but got 2 inputs for model 'hello'. Got input(s) ['X','Z'], but"
            " missing required input(s) []. Please provide all required input(s)."
        ),
    ),
    "datatype": (
        inputs(X=ROW.astype(np.int32)),
        f"{NO_ID}inference input 'X' data-type is 'INT32', but model 'hello' expects 'FP32'",
    ),
    "shape": (
        inputs(X=ROW[:, :3]),
        (
            f"{NO_ID}unexpected shape for input 'X' for model 'hello'. Expected [-1,4], got [1,3]."
            " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension"
        ),
    ),
    "the caller's id": (
        infer_request("hello", {"X": ROW[:, :3]}, id="7"),
        "[request id: 7] unexpected shape for input 'X' for model 'hello'. Expected [-1,4], got",
    ),
    "rows": (
        inputs(X=np.ones((9, 4), np.float32)),
        f"{NO_ID}inference request batch-size must be <= 8 for 'hello'",
    ),
    "size": (
        changed(lambda r: r.raw_input_contents.__setitem__(0, bytes(15))),
        f"{NO_ID}input byte size mismatch for input 'X' for model 'hello'. Expected 16, got 15",
    ),
    "contents twice": (
        changed(lambda r: r.inputs[0].contents.fp32_contents.append(1)),
        "contents field must not be specified when using raw_input_contents for 'X' for model 'he",
    ),
    "no contents": (
        changed(lambda r: r.ClearField("raw_input_contents")),
        "unable to find data for input tensor 'X' for model 'hello' in request.",
    ),
    "reserved parameter": (
        changed(lambda r: r.parameters["triton_x"].__setattr__("bool_param", True)),
        (
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following"
            " keys starting with 'triton_' are allowed: triton_enable_empty_final_response"
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal_has_tritons_text(stub, case):
    request, text = REFUSED[case]

    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request)

    assert caught.value.details().startswith(text)
    unknown = case.startswith("unknown ") and case.endswith(("model", "version"))
    assert caught.value.code() is (grpc.StatusCode.NOT_FOUND if unknown else INVALID)


@pytest.mark.parametrize(
    ("version", "text"),
    [("", "has no available versions"), ("1", "version 1 is not at ready state")],
)
async def test_a_model_that_was_unloaded_is_unknown(start, hello, dial, version, text):
    application = await start(hello(server={"status_codes": "triton"}))
    await application.manager.unload("hello")
    stub = await dial(application.grpc.addresses[0])

    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(infer_request("hello", {"X": ROW}, model_version=version))

    assert caught.value.details() == f"Request for unknown model: 'hello' {text}"
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_on_a_stream_too(stub):
    call = stub.ModelStreamInfer()
    await call.write(infer_request("hello", {"X": ROW[:, :3]}, id="7"))
    await call.done_writing()
    (answer,) = [answer async for answer in call]

    assert answer.error_message.startswith("[request id: 7] unexpected shape for input 'X'")
    assert answer.infer_response.id == "7"


async def test_the_servers_name_is_tritons(stub):
    assert (await stub.ServerMetadata(inference.ServerMetadataRequest())).name == "triton"
