"""`tritonclient.grpc` asks for what it cannot have: python errors.py ADDRESS."""

import sys

import numpy as np
import tritonclient.grpc as triton
from checks import Checks
from tensors import pair, row, tensor

check = Checks()


def answered(client, model, inputs, **options):
    """For a request that should have been refused."""
    return client.infer(model, inputs, **options).get_response(as_json=True)


@check
def unknown_model(client):
    return answered(client, "missing", [row()])


@check
def unknown_version(client):
    return answered(client, "hello", [row()], model_version="99")


@check
def unknown_model_metadata(client):
    return client.get_model_metadata("missing", as_json=True)


@check
def unknown_model_config(client):
    return client.get_model_config("missing", as_json=True)


@check
def unknown_model_statistics(client):
    return client.get_inference_statistics("missing", as_json=True)


@check
def unknown_input(client):
    return answered(client, "hello", [row(), tensor("Z", np.zeros((1, 16), np.float32))])


@check
def missing_input(client):
    return answered(client, "sums", pair([1, 2, 3, 4], [1, 2, 3, 4])[:1])


@check
def repeated_input(client):
    return answered(client, "hello", [row(), row()])


@check
def wrong_dtype(client):
    return answered(client, "hello", [tensor("X", np.zeros((1, 16), np.int32))])


@check
def wrong_columns(client):
    return answered(client, "hello", [row(columns=15)])


@check
def wrong_rank(client):
    return answered(client, "hello", [tensor("X", np.zeros(16, np.float32))])


@check
def no_rows(client):
    return answered(client, "hello", [row(rows=0)])


@check
def too_many_rows(client):
    return answered(client, "hello", [row(rows=257)])


@check
def unequal_rows(client):
    zeros = np.zeros((2, 4), np.float32)
    return answered(client, "sums", [tensor("A", zeros), tensor("B", zeros[:1])])


@check
def unknown_output(client):
    return answered(client, "hello", [row()], outputs=[triton.InferRequestedOutput("W")])


@check
def reserved_parameter(client):
    request = triton.service_pb2.ModelInferRequest(model_name="hello")
    request.parameters["triton_secret"].int64_param = 1
    return raw(client, request)


@check
def short_raw_contents(client):
    request = triton.service_pb2.ModelInferRequest(
        model_name="hello", raw_input_contents=[bytes(60)]
    )
    request.inputs.add(name="X", datatype="FP32", shape=[1, 16])
    return raw(client, request)


@check
def mixed_contents(client):
    request = triton.service_pb2.ModelInferRequest(
        model_name="hello", raw_input_contents=[bytes(64)]
    )
    given = request.inputs.add(name="X", datatype="FP32", shape=[1, 16])
    given.contents.fp32_contents.extend(range(16))
    return raw(client, request)


@check
def message_over_the_limit(client):
    return answered(client, "hello", [row(rows=1_200_000)])


@check
def load_model(client):
    return client.load_model("hello")


@check
def unload_model(client):
    return client.unload_model("hello")


@check
def shared_memory_input(client):
    given = triton.InferInput("X", [1, 16], "FP32")
    given.set_shared_memory("region", 64)
    return answered(client, "hello", [given])


@check
def shared_memory_output(client):
    asked = triton.InferRequestedOutput("Y")
    asked.set_shared_memory("region", 64)
    return answered(client, "hello", [row()], outputs=[asked])


@check
def register_system_shared_memory(client):
    return client.register_system_shared_memory("region", "/region", 64)


@check
def system_shared_memory_status(client):
    return client.get_system_shared_memory_status(as_json=True)


@check
def register_cuda_shared_memory(client):
    return client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 64)


@check
def trace_settings(client):
    return client.get_trace_settings(as_json=True)


@check
def log_settings(client):
    return client.get_log_settings(as_json=True)


@check
def still_serving(client):
    result = client.infer("hello", [row()])
    return bool(np.array_equal(result.as_numpy("Y"), 2 * np.arange(16, dtype=np.float32)[None]))


def raw(client, request):
    """Send a message that the client's own functions would not build."""
    call = client._client_stub.ModelInfer  # no public way to send it
    try:
        return str(call(request))
    except triton.grpc.RpcError as error:
        return {"status": str(error.code()), "message": error.details()}


if __name__ == "__main__":
    with triton.InferenceServerClient(sys.argv[1]) as connected:
        check.run(connected)
