"""Each reply depends on its own request alone, whatever shares its batches.

Everything from `Batcher.infer` down to the executor is real: padding, optional inputs and inputs
without a batch axis, parameters, split requests, requested outputs, row errors, and an executor
that reuses its buffers, allocates the memory of its inputs, executes in two halves or certain sizes only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from batcher.clock import monotonic_ns
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, NoBatching
from batcher.errors import InputRefused
from batcher.executor import (
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    TensorSpec,
)
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.interface.padding_rules import AxisRule, PaddingRules
from batcher.runtime.models.model import ServedModel
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.request import InferenceRequest
from batcher.runtime.runner import Runner
from batcher.service import Batcher
from batcher.telemetry import Telemetry
from batcher.tensors import Tensor

MAX_ROWS = 4
POISON = -1
METADATA = ModelMetadata(
    "test",
    (
        TensorSpec("x", "INT64", (-1, -1), dims=("n", "seq")),
        TensorSpec("mask", "INT64", (-1, -1), dims=("n", "seq")),
        TensorSpec("text", "BYTES", (-1, 1)),
        TensorSpec("b", "INT64", (-1,), dims=("k",), batched=False),
        TensorSpec("o", "INT64", (-1, 1), optional=True),
    ),
    (
        TensorSpec("y", "INT64", (-1, -1), dims=("n", "seq")),
        TensorSpec("copy", "BYTES", (-1, 1)),
        TensorSpec("total", "INT64", (-1, 1)),
    ),
    parameters=("beam",),
)
BEAMS = (None, 1, 2, True, 1.0, "1")
SHARED = ((), (0,), (5,), (0, 5), (5, 0))


@dataclass(frozen=True)
class Asked:
    """What a caller sends."""

    rows: int
    seq: int
    b: tuple[int, ...]
    o: int | None
    beam: object
    outputs: tuple[str, ...] | None
    poisoned: bool = False


@st.composite
def callers_of_one_time(draw):
    """Up to eight callers with similar requests, because others would hardly share a batch."""

    def some(values):
        return st.sampled_from(
            draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique_by=repr))
        )

    names = st.permutations(["y", "copy", "total"]).map(lambda names: tuple(names[:2]))
    asked = st.builds(
        Asked,
        rows=st.sampled_from([1, 1, 1, 2, 3, MAX_ROWS + 1, 2 * MAX_ROWS + 1]),
        seq=some(range(1, 7)),
        b=some(SHARED),
        o=some([None, 0, 1]),
        beam=some(BEAMS),
        outputs=st.none() | names,
    )
    return draw(st.lists(asked, min_size=2, max_size=8))


class Executor:
    """Computes what `expected` says, row by row; `fails` says how it takes a poisoned row."""

    capabilities = Capabilities(dynamic_axes=True)

    def __init__(self, fails: str, *, reuses: bool, sizes=()):
        self._fails = fails
        self._metadata = replace(METADATA, batch_sizes=sizes)
        self._sizes = sizes or range(1, MAX_ROWS + 1)
        self._reuses = reuses
        self._free = []

    async def load(self, _):
        return self._metadata

    async def execute(self, batch):
        await asyncio.sleep(0)
        return self.compute(batch)

    def compute(self, batch):
        x, mask, b = (batch.inputs[name] for name in ("x", "mask", "b"))
        assert batch.rows == len(x)
        assert batch.rows in self._sizes
        assert not batch.parameters.keys() - {"beam"}
        bad = (x == POISON).any(axis=1)
        if bad.any() and self._fails == "batch":
            raise ExecutionError("poison", cause="input")
        buffer = self._free.pop() if self._free else np.empty((MAX_ROWS, 64), np.int64)
        y = buffer[: len(x), : x.shape[1]] if self._reuses else np.empty_like(x)
        y[:] = x * mask + number_of(b, batch.parameters.get("beam"))
        total = y.sum(axis=1, keepdims=True, where=mask == 1)
        total += batch.inputs.get("o", -7)
        outputs = {"y": y, "copy": batch.inputs["text"], "total": total}
        if batch.outputs is not None:
            outputs = {name: outputs[name] for name in batch.outputs}
        errors = {int(row): "poison" for row in np.flatnonzero(bad)}
        if not self._reuses:
            return BatchResult(outputs, errors)

        def release():
            buffer[:] = 999_999
            self._free.append(buffer)

        return BatchResult(outputs, errors, release)

    async def close(self):
        pass


class Blocking(Executor):
    """The same without coroutines."""

    def load(self, _):
        return self._metadata

    def execute(self, batch):
        return self.compute(batch)

    def close(self):
        pass


class Allocating(Blocking):
    """Its inputs are in memory of its own, which holds something else as soon as a batch has ended."""

    def allocate(self, _name, shape, dtype):
        return np.full(shape, 77_777, dtype)


class Halves(Allocating):
    """Computes in the second half, on another thread, from the memory of the first."""

    def submit(self, batch):
        return batch

    def collect(self, handle):
        return self.compute(handle)


KINDS = {
    "coroutines": (Executor, "thread"),
    "thread": (Blocking, "thread"),
    "inline": (Allocating, "inline"),
    "allocates": (Allocating, "thread"),
    "halves": (Halves, "thread"),
}


def number_of(b, beam):
    """A number that tells b and the parameter apart."""
    return 1000 * sum((place + 1) * (value + 1) for place, value in enumerate(b)) + 100_000 * (
        1 + next(at for at, each in enumerate(BEAMS) if repr(each) == repr(beam))
    )


def request_of(number, each):
    x = 10 * number + np.arange(each.rows * each.seq, dtype=np.int64).reshape(each.rows, each.seq)
    if each.poisoned:
        x[-1, -1] = POISON
    mask = np.ones_like(x)
    text = np.array([[b"%d/%d" % (number, row)] for row in range(each.rows)], np.object_)
    inputs = {
        "x": Tensor("INT64", x),
        "mask": Tensor("INT64", mask),
        "text": Tensor("BYTES", text),
        "b": Tensor("INT64", np.array(each.b, np.int64)),
    }
    if each.o is not None:
        inputs["o"] = Tensor("INT64", np.full((each.rows, 1), each.o, np.int64))
    parameters = {"trace_id": number} | ({} if each.beam is None else {"beam": each.beam})
    return InferenceRequest(
        "m", inputs, monotonic_ns(), outputs=each.outputs, parameters=parameters
    )


def expected(each, request):
    x = request.inputs["x"].array
    y = x + number_of(each.b, each.beam)
    outputs = {
        "y": y,
        "copy": request.inputs["text"].array,
        "total": y.sum(axis=1, keepdims=True) + (-7 if each.o is None else each.o),
    }
    return {name: outputs[name].tolist() for name in each.outputs or outputs}


class NoTimer:
    """Nothing in these stories waits for a moment."""

    def __init__(self, _):
        pass

    def arm(self, _):
        pass

    def close(self):
        pass


async def answers(callers, policy, padding, executor, isolation):
    loop = asyncio.get_running_loop()
    runner = Runner(Scheduler(), loop, monotonic_ns, NoTimer)
    telemetry = Telemetry(CollectorRegistry())
    plan = InstancePlan(
        name="m#0",
        key="m/1",
        context=LoadContext("m", "1", 0, "cpu", MAX_ROWS, {}),
        make_executor=lambda: executor,
        max_in_flight=1,
        execute_timeout_ns=10**12,
        warmup=WarmupPlan((), 1),
        isolation=isolation,
    )
    model = ServedModel(
        "m",
        "1",
        "test",
        ModelSettings(MAX_ROWS, policy),
        [plan],
        ProcessContext(runner, loop, monotonic_ns),
        telemetry.model("m/1", "m", "1"),
        padding,
    )
    await model.load()
    batcher = Batcher(ModelRegistry([model]), runner, telemetry, monotonic_ns)
    requests = [request_of(number, each) for number, each in enumerate(callers)]
    calls = [infer(batcher, request) for request in requests]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    await model.close(1.0)
    return requests, ends


async def infer(batcher, request):
    """The values of an answer, as they are when the caller's turn has come to read them."""
    reply = await batcher.infer(request)
    await asyncio.sleep(0)
    return {name: tensor.array.tolist() for name, tensor in reply.outputs.items()}


PADDING = PaddingRules(
    (AxisRule("x", 1, 7, (2, 4, 6)), AxisRule("mask", 1, 0, (2, 4, 6))), (), "models[0]."
)
PLAIN = Asked(1, 2, (5,), None, None, None)


@pytest.mark.slow
@settings(max_examples=100)
@given(
    callers_of_one_time(),
    st.sampled_from([FixedWindow(), Adaptive(), NoBatching()]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["row", "batch"]),
    st.none() | st.integers(0, 7),
    st.sampled_from(list(KINDS)),
    st.sampled_from([(), (2, MAX_ROWS), (MAX_ROWS,)]),
)
@example([PLAIN] * 8, FixedWindow(), True, True, "batch", 3, "coroutines", ())
@example([PLAIN] * 8, FixedWindow(), True, True, "row", 3, "halves", (2, MAX_ROWS))
@example([PLAIN] * 8, FixedWindow(), True, True, "batch", 3, "inline", (MAX_ROWS,))
def test_each_reply_depends_on_its_own_request_alone(
    callers, policy, padded, reuses, fails, poisoned, kind, sizes
):
    callers = list(callers)
    if poisoned is not None and poisoned < len(callers):
        each = callers[poisoned]
        callers[poisoned] = Asked(
            each.rows, each.seq, each.b, each.o, each.beam, each.outputs, poisoned=True
        )
    padding = PADDING if padded else PaddingRules((), (), "")
    made, isolation = KINDS[kind]
    executor = made(fails, reuses=reuses, sizes=sizes)
    requests, ends = asyncio.run(answers(callers, policy, padding, executor, isolation))
    for each, request, end in zip(callers, requests, ends, strict=True):
        if each.poisoned:
            assert isinstance(end, InputRefused), end
            assert "poison" in str(end)
        else:
            assert end == expected(each, request)
