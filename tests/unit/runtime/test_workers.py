"""Batches of a coroutine executor that run together, and one that runs alone."""

from __future__ import annotations

import asyncio

import numpy as np

from batcher.clock import monotonic_ns
from batcher.executor import BatchResult, Capabilities
from batcher.runtime.dispatch import Slice
from batcher.runtime.layout import Layout
from batcher.runtime.request import InferenceRequest
from batcher.runtime.workers import LoopWorker
from batcher.tensors import Tensor

LAYOUT = Layout({"Y": "FP32"})


class Remote:
    """Notes who runs with whom; a batch ends a few turns of the loop after it began."""

    capabilities = Capabilities(max_in_flight=8)

    def __init__(self):
        self.running = set()
        self.together = []

    async def execute(self, batch):
        number = float(batch.inputs["X"][0, 0])
        self.running.add(number)
        self.together.append(frozenset(self.running))
        for _ in range(3):
            await asyncio.sleep(0)
        self.running.discard(number)
        return BatchResult({"Y": batch.inputs["X"]})

    async def close(self):
        pass


def slices(number):
    rows = np.full((1, 1), number, np.float32)
    return [Slice(InferenceRequest("m", {"X": Tensor("FP32", rows)}, 0), 0, 1)]


async def test_one_that_runs_alone_has_no_company_and_holds_nobody_up():
    executor = Remote()
    worker = LoopWorker(executor, "m#0", asyncio.get_running_loop(), monotonic_ns)
    ended = []
    # Some have begun, some have not, and others come while it runs.
    for number in range(3):
        worker.run(slices(number), LAYOUT, ended.append)
    await asyncio.sleep(0)
    worker.run(slices(100), LAYOUT, ended.append, alone=True)
    for number in range(3, 6):
        worker.run(slices(number), LAYOUT, ended.append)
    async with asyncio.timeout(10):
        while len(ended) < 7:
            await asyncio.sleep(0)
            if len(ended) == 3:
                worker.run(slices(7 + len(executor.together)), LAYOUT, lambda _: None)
    assert all(executed.result is not None for executed in ended)
    assert frozenset({0, 1, 2}) in executor.together
    assert frozenset({100}) in executor.together
    assert not any(100 in running and len(running) > 1 for running in executor.together)
    await worker.close(10)
