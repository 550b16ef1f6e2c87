"""`tritonclient.grpc` against the server: python sync.py ADDRESS."""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from checks import Checks, failure
from tensors import differing, of_every_type, pair, row, types_inputs

check = Checks()


def doubled(result, sent):
    """Whether `Y` is twice what was sent."""
    return bool(np.array_equal(result.as_numpy("Y"), 2 * sent))


@check
def live(client):
    return client.is_server_live()


@check
def ready(client):
    return client.is_server_ready()


@check
def models_ready(client):
    return {name: client.is_model_ready(name) for name in ("hello", "types", "sums")}


@check
def model_version_ready(client):
    return client.is_model_ready("hello", "1")


@check
def server_metadata(client):
    return client.get_server_metadata(as_json=True)


@check
def model_metadata(client):
    return client.get_model_metadata("sums", as_json=True)


@check
def model_config(client):
    return client.get_model_config("sums", as_json=True)["config"]


@check
def repository_index(client):
    return client.get_model_repository_index(as_json=True)["models"]


@check
def infer(client):
    sent = row(3.0)
    result = client.infer("hello", [sent])
    head = result.get_response(as_json=True)
    return {
        "right": doubled(result, np.arange(16, dtype=np.float32)[None] + 3),
        "batch_dtype": str(result.as_numpy("BATCH").dtype),
        "model": head["model_name"],
        "version": head["model_version"],
        "outputs": [output["name"] for output in head["outputs"]],
    }


@check
def infer_typed_contents(client):
    request = triton.service_pb2.ModelInferRequest(model_name="hello")
    given = request.inputs.add(name="X", datatype="FP32", shape=[1, 16])
    given.contents.fp32_contents.extend(range(16))
    response = client._client_stub.ModelInfer(request)  # no public way to send it
    result = triton.InferResult(response)
    return doubled(result, np.arange(16, dtype=np.float32)[None])


@check
def several_rows(client):
    result = client.infer("hello", [row(rows=5)])
    return {"shape": list(result.as_numpy("Y").shape), "batch": result.as_numpy("BATCH").tolist()}


@check
def request_id(client):
    return client.infer("hello", [row()], request_id="a-7").get_response().id


@check
def requested_outputs(client):
    only = [triton.InferRequestedOutput("DIFFERENCE")]
    result = client.infer("sums", pair([5, 6, 7, 8], [1, 2, 3, 5]), outputs=only)
    sums = result.as_numpy("SUM")
    return {"DIFFERENCE": result.as_numpy("DIFFERENCE").tolist(), "SUM": sums}


@check
def output_order(client):
    asked = [triton.InferRequestedOutput(name) for name in ("DIFFERENCE", "SUM")]
    result = client.infer("sums", pair([1, 1, 1, 1], [2, 2, 2, 2]), outputs=asked)
    return [output.name for output in result.get_response().outputs]


@check
def input_order(client):
    """The raw contents follow the request's order of inputs, which is free."""
    result = client.infer("sums", pair([5, 6, 7, 8], [1, 2, 3, 5])[::-1])
    return result.as_numpy("DIFFERENCE").tolist()


@check
def every_type(client):
    arrays = of_every_type()
    return differing(arrays, client.infer("types", types_inputs(arrays)))


@check
def classification(client):
    asked = [triton.InferRequestedOutput("SUM", class_count=2)]
    result = client.infer("sums", pair([1, 9, 3, 7], [0, 0, 0, 0]), outputs=asked)
    return [[value.decode() for value in line] for line in result.as_numpy("SUM").tolist()]


@check
def no_batch_axis(client):
    """A model that its author exported for one input at a time, as such clients call it."""
    config = client.get_model_config("whole", as_json=True)["config"]
    metadata = client.get_model_metadata("whole", as_json=True)
    arrays = {
        "X": np.arange(6, dtype=np.float32).reshape(2, 3),
        "SCALE": np.asarray(2, dtype=np.float32),
    }
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(array)
    result = client.infer("whole", inputs)
    classes = client.infer(
        "whole", inputs, outputs=[triton.InferRequestedOutput("Y", class_count=2)]
    )
    return {
        "max_batch_size": config.get("max_batch_size", 0),
        "dims": [each.get("dims", []) for each in config["input"] + config["output"]],
        "shapes": [each.get("shape", []) for each in metadata["inputs"] + metadata["outputs"]],
        "Y": result.as_numpy("Y").tolist(),
        "TOTAL": result.as_numpy("TOTAL").tolist(),
        "classes": [value.decode() for value in classes.as_numpy("Y").tolist()],
    }


@check
def options(client):
    result = client.infer(
        "hello",
        [row()],
        request_id="all-options",
        priority=1,
        timeout=5_000_000,
        client_timeout=10.0,
        headers={"x-batcher-tenant": "gold"},
        parameters={"text": "a", "number": 3, "flag": True},
    )
    return doubled(result, np.arange(16, dtype=np.float32)[None])


@check
def compressed(client):
    result = client.infer("hello", [row()], compression_algorithm="gzip")
    return doubled(result, np.arange(16, dtype=np.float32)[None])


@check
def async_infer(client):
    answers = queue.Queue()
    for number in range(20):
        client.async_infer(
            "hello",
            [row(number)],
            lambda result, error: answers.put((result, error)),
            request_id=str(number),
        )
    right = set()
    for _ in range(20):
        result, error = answers.get(timeout=20)
        if error is not None:
            return failure(error)
        number = int(result.get_response().id)
        if doubled(result, np.arange(16, dtype=np.float32)[None] + number):
            right.add(number)
    return len(right)


def collect(client, count, send):
    """What a stream answers to what `send` sends, in order: (id or message)."""
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    try:
        send()
        return [answers.get(timeout=20) for _ in range(count)]
    finally:
        client.stop_stream()


@check
def stream(client):
    def send():
        for number in range(30):
            client.async_stream_infer("hello", [row(number)], request_id=str(number))

    answers = collect(client, 30, send)
    return {
        "ids": [result.get_response().id for result, _ in answers],
        "right": all(
            doubled(result, np.arange(16, dtype=np.float32)[None] + number)
            for number, (result, _) in enumerate(answers)
        ),
        "errors": [failure(error) for _, error in answers if error],
    }


@check
def stream_goes_on_after_an_error(client):
    def send():
        for model in ("hello", "missing", "hello"):
            client.async_stream_infer(model, [row()])

    return [
        failure(error)["message"]
        if error
        else doubled(result, np.arange(16, dtype=np.float32)[None])
        for result, error in collect(client, 3, send)
    ]


def of_sequences(send):
    """Steps of two sequences, one with a number and one with a text as id, in turn."""
    for place in range(4):
        for sequence_id in (2**40, "recording"):
            flags = {"sequence_start": place == 0, "sequence_end": place == 3}
            send([row(place + 1, columns=1)], sequence_id=sequence_id, **flags)


@check
def sequences(client):
    totals = []

    def send(inputs, **given):
        answer = client.infer("totals", inputs, **given)
        totals.append(answer.as_numpy("TOTAL").item())

    of_sequences(send)
    return totals


@check
def sequences_on_a_stream(client):
    def send():
        of_sequences(lambda inputs, **given: client.async_stream_infer("totals", inputs, **given))

    answers = collect(client, 8, send)
    return [
        failure(error) if error else result.as_numpy("TOTAL").item() for result, error in answers
    ]


@check
def sequence_without_a_start(client):
    client.infer("totals", [row(columns=1)], sequence_id=5)


@check
def stream_cancelled(client):
    client.start_stream(callback=lambda result, error: None)
    client.async_stream_infer("slow", [row(columns=1)])
    client.stop_stream(cancel_requests=True)
    return client.is_server_live()


@check
def async_infer_cancelled(client):
    answers = queue.Queue()
    call = client.async_infer(
        "slow", [row(columns=1)], lambda result, error: answers.put((result, error))
    )
    call.cancel()
    return failure(answers.get(timeout=20)[1])


@check
def client_timeout(client):
    return client.infer("slow", [row(columns=1)], client_timeout=0.1).get_response(as_json=True)


@check
def empty_bytes_tensor(client):
    arrays = of_every_type()
    arrays["BYTES"] = np.full((2, 3), b"", dtype=np.object_)
    return differing(arrays, client.infer("types", types_inputs(arrays)))


@check
def statistics(client):
    before = counts(client)
    for _ in range(3):
        client.infer("sums", pair([1, 2, 3, 4], [1, 2, 3, 4]))
    after = counts(client)
    full = client.get_inference_statistics("sums", as_json=True)
    return {
        "inferences": after[0] - before[0],
        "executions": after[1] - before[1],
        "full": full["model_stats"][0],
        "all": sorted(
            model["name"] for model in client.get_inference_statistics(as_json=True)["model_stats"]
        ),
    }


def counts(client):
    """Inferences and executions of `sums`."""
    model = client.get_inference_statistics("sums").model_stats[0]
    return model.inference_count, model.execution_count


if __name__ == "__main__":
    with triton.InferenceServerClient(sys.argv[1]) as connected:
        check.run(connected)
