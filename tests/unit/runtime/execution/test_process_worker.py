"""Executors in real children: their answers, their ends, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import numpy as np
import pytest

from batcher.clock import monotonic_ns
from batcher.core.events import FailureCause
from batcher.errors import BackendUnavailable, ModelLoadError, OutOfMemory
from batcher.executor import LoadContext
from batcher.executors.isolated import processes
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.process_worker import ProcessWorker
from batcher.runtime.instances.warmup import run_batch
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor

pytestmark = pytest.mark.slow

CHILDREN = Path(__file__).resolve().parents[3] / "children"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(CHILDREN))


@pytest.fixture(autouse=True)
def _nothing_left():
    processes.warm()
    files, children = open_files(), children_of(os.getpid())
    yield
    assert children_of(os.getpid()) == children
    assert open_files() == files


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def children_of(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(child for task in tasks for child in (task / "children").read_text().split())


class Child:
    """A loaded worker, which is gone at the end."""

    def __init__(self, name, options=None, most_rows=8, **settings):
        self.worker = ProcessWorker(
            f"odd_executors:{name}", "m#0", asyncio.get_running_loop(), monotonic_ns, **settings
        )
        self.context = LoadContext("m", "1", 0, "cpu", most_rows, options or {})
        self.why = asyncio.get_running_loop().create_future()

    async def __aenter__(self):
        self.metadata = await self.worker.load(self.context)
        self.layout = layout_of(self.metadata)
        self.worker.lost = self.why.set_result
        return self

    async def __aexit__(self, *_):
        await self.worker.close(30)
        self.worker.abandon()
        await self.worker.gone()

    async def run(self, inputs, **arguments):
        return await run_batch(self.worker, self.slices(inputs, **arguments), self.layout)

    def slices(self, *requests, **arguments):
        return [
            Slice(
                InferenceRequest("m", dict(inputs), 0, **arguments),
                0,
                len(next(iter(inputs.values())).array),
            )
            for inputs in requests
        ]


def text(deed):
    return {"X": Tensor("BYTES", np.array([[deed.encode()]], object))}


async def test_a_child_answers_and_ends():
    async with Child("Does") as child:
        executed = await child.run(text(""))
        assert executed.result.outputs["PID"].tolist() == [[child.worker.pid]]
        assert child.worker.pid in map(int, children_of(os.getpid()))
        assert executed.started_ns <= executed.execute_start_ns <= executed.execute_end_ns
        assert executed.execute_end_ns <= executed.ended_ns


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("exit", "ended with exit code 7"),
        ("segfault", "killed by SIGSEGV.*Fatal Python error: Segmentation fault.*odd_executors"),
        ("kill", "killed by SIGKILL"),
        ("close", "closed its connection"),
    ],
)
async def test_a_child_that_ends_by_itself_is_lost_with_the_reason(deed, reason):
    async with Child("Does") as child:
        executed = await child.run(text(deed))
        assert executed.result is None
        assert executed.cause is FailureCause.DEVICE
        why = await child.why
        assert re.search(reason, why), why
        later = await child.run(text(""))
        assert why.startswith(later.failure)
        assert "stderr" not in later.failure  # callers see it


@pytest.mark.parametrize("deed", ["stop", "hang", "hang in C"])
async def test_a_child_that_hangs_is_killed_when_it_is_abandoned(deed):
    async with Child("Does") as child:
        ended = []
        child.worker.run(child.slices(text(deed)), child.layout, ended.append)
        await until_it(deed, child.worker.pid)
        child.worker.abandon()
        await child.worker.gone()
        assert not ended
        assert not child.why.done()


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def until_it(deed, pid):
    """Wait until the child is where the deed leads it."""
    state = "T" if deed == "stop" else "S"
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if state_of(pid) == state:
            return
    raise TimeoutError(deed)


@pytest.mark.parametrize(
    ("deed", "kind", "reason"),
    [
        ("model", ModelLoadError, "because of model"),
        ("memory", OutOfMemory, "because of memory"),
        ("backend", BackendUnavailable, "because of backend"),
        ("raise", ModelLoadError, "model 'm': the executor could not load: ValueError: no"),
        ("sys.exit", ModelLoadError, "model 'm': the executor could not load: SystemExit: bye"),
        ("nothing", ModelLoadError, "load must return ModelMetadata, not NoneType"),
        ("exit", ModelLoadError, "model 'm': its child process is gone: .* exit code 7"),
        ("segfault", ModelLoadError, "model 'm': .*SIGSEGV.*Segmentation fault"),
    ],
)
async def test_a_child_that_cannot_load_says_why(deed, kind, reason):
    child = Child("Does", {"load": deed})
    with pytest.raises(kind, match=reason) as raised:
        await child.worker.load(child.context)
    assert type(raised.value) is kind
