"""What a blocking executor may have beside `execute`, in a real child."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from batcher.clock import monotonic_ns
from batcher.core.events import FailureCause
from batcher.executor import LoadContext
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.process_worker import ProcessWorker
from batcher.runtime.instances.warmup import run_batch
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "children"))


async def loaded(name, options=None, **settings):
    path = f"odd_executors:{name}"
    worker = ProcessWorker(path, "m#0", asyncio.get_running_loop(), monotonic_ns, **settings)
    return worker, layout_of(await worker.load(LoadContext("m", "1", 0, "cpu", 8, options or {})))


def slices(number, columns):
    array = np.full((2, columns), number, np.float32)
    return [Slice(InferenceRequest("m", {"X": Tensor("FP32", array)}, 0), 0, 2)]


@pytest.mark.parametrize("columns", [1, 40_000])
@pytest.mark.parametrize("pipelining", [True, False])
async def test_batches_overlap_and_end_in_order(columns, pipelining):
    worker, layout = await loaded("Overlaps", {"columns": columns}, pipelining=pipelining)
    assert worker.overlaps is pipelining
    batches = [run_batch(worker, slices(number, columns), layout) for number in range(6)]
    found = await asyncio.gather(*batches)
    ends = [each.execute_end_ns for each in found]
    assert ends == sorted(ends)
    ahead = []
    for number, each in enumerate(found):
        assert (each.result.outputs["Y"] == 2 * number).all()
        ahead.append(int(each.result.outputs["SUBMITTED"][0, 0]) - number - 1)
        assert bool(each.submitted_ns) is pipelining
        assert each.started_ns <= each.execute_start_ns <= each.execute_end_ns <= each.ended_ns
    assert max(ahead) == pipelining
    if pipelining:  # the device begins a batch when it has ended the one before
        starts = [each.execute_start_ns for each in found]
        assert all(start >= end for start, end in zip(starts[1:], ends, strict=False))
    await worker.close(30)


@pytest.mark.parametrize(
    ("half", "cause"), [("submit", FailureCause.DEVICE), ("collect", FailureCause.INPUT)]
)
async def test_a_half_that_fails_ends_its_batch_alone(half, cause):
    worker, layout = await loaded("Overlaps", {"fail": half})
    batches = [run_batch(worker, slices(number, 1), layout) for number in range(4)]
    for each in await asyncio.gather(*batches):
        assert (each.result, each.cause, each.failure) == (None, cause, f"no {half}")
    await worker.close(30)


async def test_a_child_that_is_abandoned_while_batches_overlap_leaves_nothing():
    worker, layout = await loaded("Overlaps")
    ended = []
    for number in range(4):
        worker.run(slices(number, 1), layout, ended.append)
    worker.abandon()
    await worker.gone()
    assert not ended


async def test_inputs_lie_in_the_memory_of_the_executor():
    worker, layout = await loaded("Allocating")
    for number in range(4):
        executed = await run_batch(worker, slices(number, 2), layout)
        assert executed.result.outputs["Y"].tolist() == [[1.0], [1.0]]
        assert executed.result.outputs["X"].tolist() == [[number, number]] * 2
    await worker.close(30)
