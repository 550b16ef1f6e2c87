"""`Y` = 2 * X after `base + per_row * rows`, by KServe's own server. One batch at a time.

It speaks version 1 and version 2 of the protocol; an instance is a row, or an object with the row as `X`.
"""

import argparse
import asyncio
import os

import numpy as np
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server


class Double(Model):
    def __init__(self):
        super().__init__("double")
        self._base_s, self._per_row_s = map(float, os.environ["MODEL_SERVER_TIMES"].split())
        self._device = asyncio.Lock()
        self.ready = True

    def load(self):
        return True

    async def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, InferRequest):
            x = payload.inputs[0].as_numpy()
        else:
            rows = [row["X"] if isinstance(row, dict) else row for row in payload["instances"]]
            x = np.array(rows, np.float32)
        rows = len(x)
        async with self._device:
            await asyncio.sleep(self._base_s + self._per_row_s * rows + slow_s())
        y, batch = 2 * x, np.full((rows, 1), rows, np.int32)
        if not isinstance(payload, InferRequest):
            pairs = zip(y.tolist(), batch.tolist(), strict=True)
            return {"predictions": [{"Y": values, "BATCH": size} for values, size in pairs]}
        outputs = []
        for name, datatype, array in (("Y", "FP32", y), ("BATCH", "INT32", batch)):
            output = InferOutput(name, list(array.shape), datatype)
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(
            payload.id, self.name, outputs, requested_outputs=payload.request_outputs
        )

    async def get_input_types(self):
        return [{"name": "X", "datatype": "FP32", "shape": [-1, 16]}]

    async def get_output_types(self):
        return [
            {"name": "Y", "datatype": "FP32", "shape": [-1, 16]},
            {"name": "BATCH", "datatype": "INT32", "shape": [-1, 1]},
        ]


class OnLoopback(uvicorn.Config):
    """KServe's server listens on every interface, and has no option for it."""

    def __init__(self, *words, **settings):
        super().__init__(*words, **{**settings, "host": "127.0.0.1"})


def slow_s():
    """So many seconds more, for tests that want it slow."""
    try:
        with open(os.environ["MODEL_SERVER_SLOW"]) as file:
            return float(file.read() or 0)
    except OSError:
        return 0


if __name__ == "__main__":
    uvicorn.Config = OnLoopback
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.parse_known_args()
    ModelServer(enable_grpc=False, workers=1).start([Double()])
