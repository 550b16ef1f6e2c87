"""The one request that the load consists of, serialized once."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import numpy as np

from batcher.protocol import INFERENCE, inference, methods

UNARY = methods(INFERENCE)["ModelInfer"].path
STREAM = methods(INFERENCE)["ModelStreamInfer"].path


@dataclass(frozen=True, slots=True)
class Payload:
    """A serialized request, and how long a right answer to it is, alone and on a stream."""

    request: bytes
    reply_bytes: int
    stream_reply_bytes: int


def make_request(model: str, floats: int, rows: int = 1) -> bytes:
    """Rows of `X`, FP32 [rows, floats], in raw form."""
    values = np.arange(rows * floats, dtype="<f4")
    request = inference.ModelInferRequest(model_name=model, raw_input_contents=[values.tobytes()])
    request.inputs.add(name="X", datatype="FP32", shape=[rows, floats])
    return request.SerializeToString()


async def probe(address: str, model: str, floats: int, rows: int = 1) -> Payload:
    """Send the request once, check the answer (`Y` is twice `X`), and return what to expect.

    Every answer has the same length, because nothing in it varies: tensors are raw.
    """
    request = make_request(model, floats, rows)
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await channel.unary_unary(UNARY)(request)
        stream = channel.stream_stream(STREAM)()
        await stream.write(request)
        streamed = await stream.read()
        stream.cancel()
    answer = inference.ModelInferResponse.FromString(reply)
    place = next(i for i, output in enumerate(answer.outputs) if output.name == "Y")
    got = np.frombuffer(answer.raw_output_contents[place], "<f4")
    if not np.array_equal(got, 2 * np.arange(rows * floats, dtype="<f4")):
        raise SystemExit(f"{address}: the answer is wrong: {got}")
    on_stream = inference.ModelStreamInferResponse.FromString(streamed)
    if on_stream.infer_response.raw_output_contents != answer.raw_output_contents:
        raise SystemExit(f"{address}: the answer on a stream is wrong: {on_stream.error_message}")
    return Payload(request, len(reply), len(streamed))
