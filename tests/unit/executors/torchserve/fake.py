"""A TorchServe of the tests: its two APIs on one port, with a model `contract`."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from batcher.executors.torchserve import safetensors
from batcher.protocol import TORCHSERVE_INFERENCE, TORCHSERVE_MANAGEMENT, handlers
from batcher.protocol import torchserve_inference as inference
from batcher.protocol import torchserve_management as management

JAVA = "\norg.pytorch.serve.http.InternalServerException"

X = {"name": "X", "datatype": "FP32", "shape": [-1, 2]}
Y = {"name": "Y", "datatype": "FP32", "shape": [-1, 2]}
N = {"name": "N", "datatype": "INT64", "shape": [-1, 1]}


DESCRIBED = {
    "modelVersion": "1.0",
    "batchSize": 1,
    "maxBatchDelay": 100,
    "minWorkers": 1,
    "maxWorkers": 1,
    "clientTimeoutInMills": 0,
    "workers": [{"status": "READY"}],
    "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
}


class TorchServe:
    """`answer` makes the bytes of an answer from the fields of a call, or raises a `Refusal`."""

    def __init__(self):
        self.answer = safetensors_model
        self.model = dict(DESCRIBED)
        self.health = '{"status": "Healthy"}'
        self.token = None
        self.registered_meanwhile = False
        self.calls = []
        self.told = []
        self.ended = threading.Event()
        pool, started = ThreadPoolExecutor(8), threading.Barrier(8)
        list(
            pool.map(lambda _: started.wait(), range(8))
        )  # all its threads, before tests count them
        self._server = grpc.server(pool)
        self._server.add_generic_rpc_handlers(
            (
                handlers(
                    TORCHSERVE_INFERENCE, {"Ping": self._ping, "Predictions": self._predictions}
                ),
                handlers(
                    TORCHSERVE_MANAGEMENT,
                    {
                        "DescribeModel": self._describe,
                        "RegisterModel": self._register,
                        "ScaleWorker": self._scale,
                    },
                ),
            )
        )
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self):
        self._server.stop(0).wait()

    def _check(self, context):
        sent = dict(context.invocation_metadata()).get("authorization")
        if self.token is not None and sent != f"Bearer {self.token}":
            context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "Token Authorization failed. Token either incorrect, expired, or not provided"
                " correctly",
            )

    def _ping(self, _request, context):
        self._check(context)
        return inference.TorchServeHealthResponse(health=self.health)

    def _predictions(self, request, context):
        self._check(context)
        fields = dict(request.input)
        self.calls.append(fields)
        try:
            made = self.answer(fields)
        except RefusalError as refusal:
            context.abort(*refusal.args)
        finally:
            self.ended.set()
        return inference.PredictionResponse(prediction=made)

    def _describe(self, _request, context):
        self._check(context)
        if self.model is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "Model not found: contract")
        text = self.model if isinstance(self.model, str) else json.dumps([self.model])
        return management.ManagementResponse(msg=text)

    def _register(self, request, context):
        self.told.append(request)
        if self.registered_meanwhile:
            self.model = dict(DESCRIBED)
            context.abort(grpc.StatusCode.UNKNOWN, "")
        self.model = {
            **DESCRIBED,
            "batchSize": request.batch_size,
            "maxBatchDelay": request.max_batch_delay,
        }
        return management.ManagementResponse(msg="registered")

    def _scale(self, request, _context):
        self.told.append(request)
        number = request.min_worker
        self.model = {
            **self.model,
            "minWorkers": number,
            "maxWorkers": number,
            "workers": [{"status": "READY"}] * number,
        }
        return management.ManagementResponse(msg="scaled")


class RefusalError(Exception):
    """A status and a text."""


def arrays_of(fields):
    return safetensors.load(fields["data"], {"X": "FP32"})[0]["X"]


def safetensors_model(fields):
    x = arrays_of(fields)
    if (x == 13).any():
        raise RefusalError(grpc.StatusCode.INVALID_ARGUMENT, f"unlucky{JAVA}")
    outputs = {"Y": ("FP32", 2 * x), "N": ("INT64", np.full((len(x), 1), 2**60))}
    return safetensors.save(outputs)


def instances_model(fields):
    rows = json.loads(fields["data"])["instances"]
    made = [{"Y": [2 * x for x in row], "N": 2**60} for row in rows]
    return json.dumps({"predictions": made}).encode()


def json_row_model(fields):
    row = json.loads(fields["X"])
    return json.dumps({"Y": [2 * x for x in row], "N": [2**60]}).encode()


def raw_row_model(fields):
    return (2 * np.frombuffer(fields["X"], np.float32)).tobytes()
