"""What sending batches on costs: through messages and shared memory, and beside a model in this process.

`tensors` calls the executor `kserve` one batch at a time, with a Triton whose model answers with 64
bytes a row; messages and shared memory take turns. `serving` plays the same load at a server whose
model costs nothing in its own process, and at one whose model does in another `batcher`, and compares
the processor time of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc
import grpc.aio
import machine
import numpy as np
import uvloop
from bars import show
from model_servers import Triton

from batcher.executor import Batch, LoadContext
from batcher.executors.kserve import KserveExecutor, shared_memory
from batcher.protocol import INFERENCE, inference, methods
from batcher.testing.server import ServerProcess

SIZES: Final = ((4096, 16), (16_384, 16), (150_528, 8), (150_528, 32))
"""Columns of FP32 and rows of a batch: 0.26 MB, 1 MB, and 8 and 32 images of 3 x 224 x 224."""
BYTES_A_ROUND: Final = 60_000_000
PLAYED_S: Final = 6.0
RATES: Final = (300, 800)
MODEL: Final = """
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        inputs = [triton.get_input_tensor_by_name(each, "X").as_numpy() for each in requests]
        return [
            triton.InferenceResponse([triton.Tensor("Y", 2 * each[:, :16])]) for each in inputs
        ]
"""
CONFIG: Final = """
backend: "python"
max_batch_size: 64
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 16 ] } ]
"""


def tensors(rounds: int) -> dict[str, Any]:
    """Milliseconds of a batch, and of processor time here, through messages and through memory."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        triton = Triton(Path(folder), models={"double": ""})
        place = triton.repository / "wide"
        (place / "1").mkdir(parents=True)
        (place / "1" / "model.py").write_text(MODEL)
        (place / "config.pbtxt").write_text(CONFIG)
        with triton:
            triton.await_ready()
            for columns, rows in SIZES:
                found[f"{columns * rows * 4 / 1e6:.2f} MB"] = uvloop.run(
                    _both_ways(triton.grpc, columns, rows, rounds)
                )
    return found


async def _both_ways(url: str, columns: int, rows: int, rounds: int) -> dict[str, Any]:
    array = np.random.default_rng(1).random((rows, columns), np.float32)
    pieces = [memoryview(row.tobytes()) for row in array]
    batch = Batch({}, rows, raw={"X": pieces}, shapes={"X": array.shape})
    took: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for way in ("off", "auto") * rounds:
        executor = KserveExecutor()
        options = {"url": url, "shared_memory": way}
        await executor.load(LoadContext("wide", "1", 0, "cpu", rows, options))
        result = await executor.execute(batch)
        assert np.array_equal(result.outputs["Y"], 2 * array[:, :16])
        count = min(200, max(20, BYTES_A_ROUND // array.nbytes))
        walls, began_cpu_s = [], time.process_time()
        for _ in range(count):
            began_s = time.perf_counter()
            await executor.execute(batch)
            walls.append(time.perf_counter() - began_s)
        took[way].append((median(walls), (time.process_time() - began_cpu_s) / count))
        await executor.close()
    return {
        name: {
            "batch_ms": round(1000 * median(wall for wall, _ in took[way]), 2),
            "processor_ms": round(1000 * median(cpu for _, cpu in took[way]), 2),
        }
        for name, way in (("message", "off"), ("shared_memory", "auto"))
    }


def serving(rounds: int) -> dict[str, Any]:
    """Microseconds of processor time for a request and for a batch, by where the model is."""
    found: dict[str, Any] = {}
    for rate in RATES:
        used: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for _ in range(rounds):
            with ServerProcess(_model("emulated", {})) as server:
                used["in_process"].append(uvloop.run(_play(server, rate)))
            alone = {"batching": {"policy": "none", "max_batch_size": 32}}
            with (
                ServerProcess(_model("emulated", {}, **alone)) as neighbor,
                ServerProcess(_model("kserve", {"url": neighbor.grpc})) as server,
            ):
                used["neighbor"].append(uvloop.run(_play(server, rate)))
        found[f"{rate} a second"] = {
            where: {
                "request_us": round(median(each[0] for each in played), 1),
                "batch_us": round(float(median(each[1] for each in played)), 1),
                "requests_a_batch": round(float(median(each[2] for each in played)), 1),
            }
            for where, played in used.items()
        }
    return found


def _model(executor: str, options: dict[str, Any], **rest: Any) -> dict[str, Any]:
    batching = {"policy": "fixed", "max_batch_size": 32, "max_queue_delay": "20ms"}
    entry = {"name": "double", "executor": executor, "options": options, "batching": batching}
    return {"models": [entry | rest]}


async def _play(server: ServerProcess, rate: float) -> tuple[float, float, float]:
    """(microseconds of a request, of a batch, requests of a batch) of a load at an even rate."""
    request = inference.ModelInferRequest(model_name="double")
    request.inputs.add(name="X", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(bytes(64))
    data = request.SerializeToString()
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(methods(INFERENCE)["ModelInfer"].path)
        await infer(data)
        before_s = machine.cpu_seconds(server.process.pid)
        calls, inverse_sizes, began_s = [], [], time.monotonic()

        async def ask() -> None:
            answer = inference.ModelInferResponse.FromString(await infer(data))
            size = np.frombuffer(answer.raw_output_contents[1], np.int32)[0]
            inverse_sizes.append(1 / size)

        for number in range(int(rate * PLAYED_S)):
            await asyncio.sleep(began_s + number / rate - time.monotonic())
            calls.append(asyncio.ensure_future(ask()))
        await asyncio.gather(*calls)
        used_us = (machine.cpu_seconds(server.process.pid) - before_s) * 1e6
    batches = sum(inverse_sizes)
    return used_us / len(calls), used_us / batches, len(calls) / batches


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both measurements, printed and kept."""
    shared_memory.WORTH_BYTES = 1
    found = {"tensors": tensors(options.rounds), "serving": serving(options.rounds)}
    for part in found.values():
        for name, figures in part.items():
            print(name, figures, flush=True)
    checks = {
        f"{size} is faster through shared memory": each["shared_memory"]["batch_ms"]
        < each["message"]["batch_ms"]
        for size, each in found["tensors"].items()
        if float(size.split()[0]) >= 1
    }
    show(checks)
    found["checks"] = checks
    machine.save(options.output, {"settings": {"rounds": options.rounds}, **found})
    return found


def options(commands: Any) -> None:
    """The command line."""
    parser = commands.add_parser("cost", help="what sending batches on costs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=machine.RESULTS / "neighbors-cost.json")
    parser.set_defaults(run=run)
