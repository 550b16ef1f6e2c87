"""A neighbor in this process, whose answers, faults and metadata a test scripts."""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from batcher import protocol
from batcher.executor import Batch, LoadContext
from batcher.executors.kserve import KserveExecutor
from batcher.protocol import INFERENCE, inference, model_config
from batcher.protocol.elements import to_raw
from batcher.tensors import DTYPES

WAIT_S = 20.0
"""The longest that a test waits for an event of the neighbor."""


@dataclass
class Call:
    """One ModelInfer as the neighbor got it."""

    request: inference.ModelInferRequest
    metadata: dict[str, str | bytes]
    left_s: float | None
    ended: threading.Event


SHARED_MEMORY = [f"SystemSharedMemory{what}" for what in ("Status", "Register", "Unregister")]


class Refusal(Exception):
    """A status to end a call with."""

    def __init__(self, code, details="", trailing=()):
        super().__init__(details)
        self.code, self.details, self.trailing = code, details, trailing


class FakeNeighbor:
    """`X` FP32 [-1, 4] -> `Y` = 2 * X, in a thread, on a port of its own or a Unix socket."""

    def __init__(self, address="127.0.0.1:0"):
        self.inputs = [("X", "FP32", [-1, 4])]
        self.outputs = [("Y", "FP32", [-1, 4])]
        self.versions = ["1"]
        self.max_batch_size = 8
        self.config = None
        """A `ModelConfig`, or None for one made of the above; False: the method is not there."""
        self.ready = True
        self.has_model_ready = True
        self.refuse = None
        """A `Refusal` of every call but ModelInfer."""
        self.infer = double
        self.calls: queue.Queue[Call] = queue.Queue()
        self.asked: list[str] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.regions = None
        """Name -> key of the registered regions; None where there is no shared memory."""
        self.credentials = None
        self.options = []
        self.address = address
        self._server = None

    def start(self):
        methods = [
            "ServerMetadata", "ServerReady", "ModelMetadata", "ModelInfer",
            *(["ModelReady"] if self.has_model_ready else []),
            *(["ModelConfig"] if self.config is not False else []),
            *(SHARED_MEMORY if self.regions is not None else []),
        ]  # fmt: skip
        self._server = grpc.server(
            all_threads(16), options=[("grpc.so_reuseport", 0), *self.options]
        )
        table = {name: self._guarded(name) for name in methods}
        self._server.add_generic_rpc_handlers(
            (protocol.handlers(INFERENCE, table, raw=("ModelInfer",)),)
        )
        if self.credentials is None:
            port = self._server.add_insecure_port(self.address)
        else:
            port = self._server.add_secure_port(self.address, self.credentials)
        if not self.address.startswith("unix:"):
            self.address = f"127.0.0.1:{port}"
        self._server.start()
        return self

    def stop(self):
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def call(self):
        """The next ModelInfer."""
        return self.calls.get(timeout=WAIT_S)

    def _guarded(self, name):
        def answer(request, context):
            self.asked.append(name)
            metadata = dict(context.invocation_metadata())
            self.metadata.append(metadata)
            try:
                if name != "ModelInfer" and self.refuse is not None:
                    raise self.refuse
                return getattr(self, f"_{name}")(request, context)
            except Refusal as refusal:
                context.set_trailing_metadata(tuple(refusal.trailing))
                context.abort(refusal.code, refusal.details)

        return answer

    def _ServerMetadata(self, request, context):  # noqa: N802
        extensions = [] if self.regions is None else ["system_shared_memory"]
        return inference.ServerMetadataResponse(name="fake", version="1", extensions=extensions)

    def _SystemSharedMemoryStatus(self, request, context):  # noqa: N802
        answer = inference.SystemSharedMemoryStatusResponse()
        for name, key in self.regions.items():
            answer.regions[name].name, answer.regions[name].key = name, key
        return answer

    def _SystemSharedMemoryRegister(self, request, context):  # noqa: N802
        if request.name in self.regions:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, "shared memory region already there")
        self.regions[request.name] = request.key
        return inference.SystemSharedMemoryRegisterResponse()

    def _SystemSharedMemoryUnregister(self, request, context):  # noqa: N802
        self.regions.pop(request.name, None)
        return inference.SystemSharedMemoryUnregisterResponse()

    def memory(self, tensor):
        """The memory that a tensor's parameters refer to, as writable bytes; None without any."""
        if "shared_memory_region" not in tensor.parameters:
            return None
        name = tensor.parameters["shared_memory_region"].string_param
        if name not in self.regions:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT, f"Unable to find shared memory region: '{name}'"
            )
        start = tensor.parameters["shared_memory_offset"].int64_param
        size = tensor.parameters["shared_memory_byte_size"].int64_param
        whole = np.memmap(f"/dev/shm{self.regions[name]}", np.uint8, "r+")
        return whole[start : start + size]

    def double_in_memory(self, request, call):
        """`Y` = 2 * X, each wherever it is."""
        (tensor,) = request.inputs
        memory = self.memory(tensor)
        if memory is None:
            return double(request)
        answer = answer_of({"Y": 2 * memory.view("<f4").reshape(tuple(tensor.shape))})
        target = self.memory(request.outputs[0])
        if target is not None:
            target[:] = np.frombuffer(answer.raw_output_contents[0], np.uint8)
            answer.raw_output_contents[0] = b""
        return answer

    def _ServerReady(self, request, context):  # noqa: N802
        return inference.ServerReadyResponse(ready=self.ready)

    def _ModelReady(self, request, context):  # noqa: N802
        return inference.ModelReadyResponse(ready=self.ready)

    def _ModelMetadata(self, request, context):  # noqa: N802
        answer = inference.ModelMetadataResponse(
            name=request.name, versions=self.versions, platform="fake"
        )
        for name, datatype, shape in self.inputs:
            answer.inputs.add(name=name, datatype=datatype, shape=shape)
        for name, datatype, shape in self.outputs:
            answer.outputs.add(name=name, datatype=datatype, shape=shape)
        return answer

    def _ModelConfig(self, request, context):  # noqa: N802
        return inference.ModelConfigResponse(config=self.config or self.made_config())

    def made_config(self):
        made = model_config.ModelConfig(name="m", max_batch_size=self.max_batch_size)
        cut = 1 if self.max_batch_size else 0
        for tensors, added in ((self.inputs, made.input), (self.outputs, made.output)):
            for name, datatype, shape in tensors:
                kind = "STRING" if datatype == "BYTES" else datatype
                number = model_config.DataType.Value(f"TYPE_{kind}")
                added.add(name=name, data_type=number, dims=shape[cut:])
        return made

    def _ModelInfer(self, data, context):  # noqa: N802
        request = inference.ModelInferRequest.FromString(data)
        left_s = context.time_remaining()
        call = Call(
            request,
            dict(context.invocation_metadata()),
            # A call without a deadline has one in some hundred years.
            left_s if left_s is not None and left_s < 1e8 else None,
            threading.Event(),
        )
        context.add_callback(call.ended.set)
        self.calls.put(call)
        return self.infer(request, call).SerializeToString()


def all_threads(count):
    """A pool whose threads all run already, so that tests can count those of others."""
    pool, together = ThreadPoolExecutor(count), threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(together.wait)
    together.wait()
    return pool


def double(request, call=None):
    """`Y` = 2 * X, raw, from raw contents."""
    (tensor,) = request.inputs
    array = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(tuple(tensor.shape))
    return answer_of({"Y": 2 * array})


def echo(request, call=None):
    """`Y` = X, whatever its datatype."""
    (tensor,) = request.inputs
    response = inference.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    response.outputs.add(name="Y", datatype=tensor.datatype, shape=tensor.shape)
    return response


def answer_of(outputs, datatypes=None):
    """A `ModelInferResponse` with raw contents."""
    response = inference.ModelInferResponse(model_name="m")
    for name, array in outputs.items():
        datatype = (datatypes or {}).get(name) or next(
            each for each, dtype in DTYPES.items() if dtype == array.dtype
        )
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(bytes(to_raw(array)))
    return response


@pytest.fixture
def neighbor():
    fake = FakeNeighbor()
    yield fake
    fake.stop()


def context_of(url, *, max_batch_size=8, base_dir=Path(), **options):
    options = {"url": url, **options}
    return LoadContext("m", "1", 0, "cpu", max_batch_size, options, base_dir)


@pytest.fixture
async def load(neighbor):
    """Load an executor for the neighbor, with options; it is closed at the end."""
    loaded = []

    async def make(**rest):
        executor = KserveExecutor()
        metadata = await executor.load(context_of(neighbor.address, **rest))
        loaded.append(executor)
        return executor, metadata

    yield make
    for executor in loaded:
        await executor.close()


def batch_of(array, name="X", **rest):
    """A batch of the rows of an array, each in a piece of its own."""
    pieces = [memoryview(row.tobytes()) for row in array]
    return Batch({}, len(array), raw={name: pieces}, shapes={name: array.shape}, **rest)


async def soon(function):
    """The result of a blocking function, while the event loop goes on."""
    return await asyncio.to_thread(function)


@pytest.fixture(scope="session")
def kit():
    """What tests of the executor need besides the neighbor."""
    return SimpleNamespace(
        FakeNeighbor=FakeNeighbor,
        Refusal=Refusal,
        answer_of=answer_of,
        batch_of=batch_of,
        context_of=context_of,
        double=double,
        echo=echo,
        soon=soon,
    )
