"""Calls with any tensors, over gRPC's own client."""

import grpc
import numpy as np

from batcher.protocol import INFERENCE, Stub, inference

TYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
TIMEOUT_S = 10.0


class RefusedError(Exception):
    """The status and the text of a call that was not answered."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


def message(model, tensors):
    """A request with these inputs: name -> array; arrays of bytes are BYTES."""
    request = inference.ModelInferRequest(model_name=model)
    for name, array in tensors.items():
        datatype = "BYTES"
        if array.dtype == np.object_:
            raw = b"".join(len(each).to_bytes(4, "little") + each for each in array.flat)
        else:
            datatype = next(word for word, kind in TYPES.items() if kind == array.dtype)
            raw = array.tobytes()
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw)
    return request


def arrays(answer):
    """The outputs: name -> array."""
    return {
        output.name: _array(output, raw)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def _array(output, raw):
    if output.datatype != "BYTES":
        return np.frombuffer(raw, TYPES[output.datatype]).reshape(output.shape)
    elements, at = [], 0
    while at < len(raw):
        stop = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        elements.append(raw[at + 4 : stop])
        at = stop
    return np.array(elements, np.object_).reshape(output.shape)


class Client:
    """Calls to one server, as a context manager."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address)
        self.stub = Stub(self._channel, INFERENCE)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._channel.close()

    def infer(self, model, **tensors):
        """The outputs of one request."""
        return self.infer_all(model, [tensors])[0]

    def infer_all(self, model, requests):
        """The outputs of requests that are sent at once; a refused one is its `RefusedError`."""
        futures = [
            self.stub.ModelInfer.future(message(model, tensors), timeout=TIMEOUT_S)
            for tensors in requests
        ]
        found = []
        for future in futures:
            try:
                found.append(arrays(future.result()))
            except grpc.RpcError as error:
                found.append(RefusedError(error.code().name, error.details()))
        if len(found) == 1 and isinstance(found[0], RefusedError):
            raise found[0]
        return found
