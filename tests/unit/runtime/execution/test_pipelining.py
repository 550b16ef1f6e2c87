"""Executors that split `execute`: one batch is copied in while another computes."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

from batcher.clock import monotonic_ns
from batcher.core.events import FailureCause
from batcher.executor import (
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    TensorSpec,
)
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.worker import make_worker
from batcher.runtime.interface.layout import Layout
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor

CONTEXT = LoadContext("m", "1", 0, "cpu", 8, {})
LAYOUT = Layout({"Y": "FP32"})
BOUND_S = 10


class Pause:
    """A call that says when it has begun, and ends when it may."""

    def __init__(self):
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self):
        self.entered.set()
        assert self.released.wait(BOUND_S)

    async def begun(self):
        assert await asyncio.to_thread(self.entered.wait, BOUND_S)


class Halves:
    """Y = 2 * X. A test may hold or fail the half of a batch, which is named by its number."""

    capabilities = Capabilities()

    def __init__(self):
        self.calls = []
        self.threads = {}
        self.held = {}
        self.fails = {}
        self.answers = {}
        self.released = []
        self.outstanding, self.most = 0, 0

    def load(self, context):
        self._note("load", None)
        return ModelMetadata(
            "halves", (TensorSpec("X", "FP32", (-1, 1)),), (TensorSpec("Y", "FP32", (-1, 1)),)
        )

    def execute(self, batch):
        self._note("execute", int(batch.inputs["X"][0, 0]))
        return BatchResult({"Y": batch.inputs["X"] * 2})

    def submit(self, batch):
        number = int(batch.inputs["X"][0, 0])
        self.outstanding += 1
        self.most = max(self.most, self.outstanding)
        try:
            self._play("submit", number)
        except BaseException:
            self.outstanding -= 1
            raise
        return batch

    def collect(self, handle):
        number = int(handle.inputs["X"][0, 0])
        try:
            self._play("collect", number)
        finally:
            self.outstanding -= 1
        if number in self.answers:
            return self.answers[number]
        return BatchResult(
            {"Y": handle.inputs["X"] * 2}, release=lambda: self.released.append(number)
        )

    def healthy(self):
        self._note("healthy", None)

    def close(self):
        self._note("close", None)

    def hold(self, half, number):
        pause = self.held[half, number] = Pause()
        return pause

    def fail(self, half, number, error):
        self.fails[half, number] = error

    def _play(self, half, number):
        self._note(half, number)
        if (half, number) in self.held:
            self.held[half, number]()
        if (half, number) in self.fails:
            raise self.fails[half, number]

    def _note(self, call, number):
        self.calls.append(call if number is None else (call, number))
        self.threads.setdefault(call, set()).add(threading.get_ident())


def slices(number, rows=1):
    array = np.full((rows, 1), number, np.float32)
    return [Slice(InferenceRequest("m", {"X": Tensor("FP32", array)}, 0), 0, rows)]


class Running:
    """A worker, and what its batches ended with, in the order in which they did."""

    def __init__(self, executor, clock=monotonic_ns, **options):
        self.worker = make_worker(executor, "m#0", asyncio.get_running_loop(), clock, **options)
        self.ended = []
        self._more = asyncio.Event()

    def start(self, number, rows=1, **options):
        def done(executed):
            self.ended.append((number, executed))
            self._more.set()

        return self.worker.run(slices(number, rows), LAYOUT, done, **options)

    async def until(self, count):
        async with asyncio.timeout(BOUND_S):
            while len(self.ended) < count:
                self._more.clear()
                await self._more.wait()

    @property
    def numbers(self):
        return [number for number, _ in self.ended]

    def answers(self):
        return [
            None if e.result is None else e.result.outputs["Y"].ravel().tolist()
            for _, e in self.ended
        ]


@pytest.fixture
def executor():
    return Halves()


@pytest.fixture
async def running(executor):
    running = Running(executor)
    await running.worker.load(CONTEXT)
    yield running
    running.worker.abandon()
    for pause in executor.held.values():
        pause.released.set()


async def thread_ended(worker):
    thread = worker._thread._thread
    await asyncio.to_thread(thread.join, BOUND_S)
    assert not worker.hangs


async def test_the_next_batch_is_submitted_while_one_is_collected(executor, running):
    first = executor.hold("collect", 1)
    second = executor.hold("submit", 2)
    running.start(1)
    await first.begun()
    running.start(2)
    await second.begun()
    assert running.ended == []
    first.released.set()
    await running.until(1)
    second.released.set()
    await running.until(2)
    assert running.numbers == [1, 2]
    assert running.answers() == [[2.0], [4.0]]
    [instance], [collector] = executor.threads["submit"], executor.threads["collect"]
    assert len({instance, collector, threading.get_ident()}) == 3
    await running.worker.close(BOUND_S)
    assert executor.threads["close"] == executor.threads["load"] == {instance}


async def test_at_most_two_are_submitted_and_all_end_in_order(executor, running):
    first = executor.hold("collect", 1)
    for number in range(1, 7):
        running.start(number, rows=number)
    await first.begun()
    first.released.set()
    await running.until(6)
    assert executor.most == 2
    assert running.numbers == [1, 2, 3, 4, 5, 6]
    assert running.answers() == [[2.0 * n] * n for n in range(1, 7)]
    assert [call for call in executor.calls if call[0] == "collect"] == [
        ("collect", n) for n in range(1, 7)
    ]


async def test_a_batch_that_runs_alone_overlaps_with_no_other(executor, running):
    first, alone = executor.hold("collect", 1), executor.hold("collect", 3)
    for number in (1, 2):
        running.start(number)
    running.start(3, alone=True)
    for number in (4, 5):
        running.start(number)
    await first.begun()
    first.released.set()
    await alone.begun()
    assert executor.outstanding == 1
    assert ("submit", 4) not in executor.calls
    alone.released.set()
    await running.until(5)
    assert running.answers() == [[2.0 * n] for n in range(1, 6)]
    assert executor.calls.index(("collect", 2)) < executor.calls.index(("submit", 3))


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), StopIteration()])
@pytest.mark.parametrize("half", ["submit", "collect"])
async def test_a_half_that_raises_ends_its_batch_alone(executor, running, half, error):
    executor.fail(half, 2, error)
    first = executor.hold("collect", 1)
    for number in (1, 2, 3, 4):
        running.start(number)
    first.released.set()
    await running.until(4)
    assert running.numbers == [1, 2, 3, 4]
    assert running.answers() == [[2.0], None, [6.0], [8.0]]
    assert type(error).__name__ in running.ended[1][1].failure
    assert (("collect", 2) in executor.calls) == (half == "collect")
    assert executor.outstanding == 0
    await running.worker.close(BOUND_S)


async def test_what_an_execution_error_says_is_kept(executor, running):
    executor.fail("collect", 1, ExecutionError("broken", cause="device"))
    running.start(1)
    await running.until(1)
    executed = running.ended[0][1]
    assert (executed.cause, executed.failure) == (FailureCause.DEVICE, "broken")


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (None, "returned NoneType, not a BatchResult"),
        (BatchResult({}), "a wrong output 'Y': it is missing"),
        (BatchResult({"Y": np.zeros((3, 1), np.float32)}), "should be 1 long"),
    ],
)
async def test_a_wrong_answer_ends_its_batch_alone(executor, running, answer, failure):
    executor.answers[1] = answer
    running.start(1)
    running.start(2)
    await running.until(2)
    assert failure in running.ended[0][1].failure
    assert running.answers() == [None, [4.0]]


async def test_the_time_of_a_batch_is_that_of_the_device(executor):
    now = [1_000]
    running = Running(executor, clock=lambda: now[0])
    await running.worker.load(CONTEXT)
    pauses = {
        (half, number): executor.hold(half, number)
        for half in ("submit", "collect")
        for number in (1, 2)
    }

    async def goes(half, number, at_ns):
        await pauses[half, number].begun()
        now[0] = at_ns
        pauses[half, number].released.set()

    running.start(1)
    await goes("submit", 1, 3_000)
    await pauses["collect", 1].begun()
    running.start(2)
    await goes("submit", 2, 5_000)
    # Its `submit` has returned when another thread sees that the next call has begun.
    await goes("collect", 1, 8_000)
    await running.until(1)
    await goes("collect", 2, 12_000)
    await running.until(2)
    first, second = (executed for _, executed in running.ended)
    assert (first.started_ns, first.submitted_ns) == (1_000, 3_000)
    assert (first.execute_start_ns, first.execute_end_ns) == (3_000, 8_000)
    assert second.started_ns == 3_000
    assert second.submitted_ns in {5_000, 8_000}
    assert (second.execute_start_ns, second.execute_end_ns) == (8_000, 12_000)
    assert (first.input_ns, first.own_ns, second.own_ns) == (2_000, 5_000, 4_000)
    await running.worker.close(BOUND_S)


async def test_only_what_is_not_submitted_is_cancelled(executor, running):
    first = executor.hold("collect", 1)
    second = executor.hold("submit", 2)
    cancels = [running.start(number) for number in (1, 2, 3)]
    await first.begun()
    await second.begun()
    assert [cancel() for cancel in cancels] == [False, False, True]
    first.released.set()
    second.released.set()
    await running.until(3)
    assert sorted(running.numbers) == [1, 2, 3]
    assert ("submit", 3) not in executor.calls
    assert {n: e.cause for n, e in running.ended}[3] is FailureCause.ABANDONED
    running.start(4)
    await running.until(4)
    assert running.answers()[-1] == [8.0]


async def test_close_ends_what_was_submitted_first(executor, running):
    first = executor.hold("collect", 1)
    running.start(1)
    running.start(2)
    await first.begun()
    closing = asyncio.create_task(running.worker.close(BOUND_S))
    await asyncio.sleep(0)
    first.released.set()
    await closing
    assert running.numbers == [1, 2]
    assert executor.calls[-1] == "close"
    assert not running.worker.hangs


@pytest.mark.parametrize("half", ["submit", "collect"])
async def test_an_abandoned_executor_is_closed_when_neither_half_runs(executor, running, half):
    computes = executor.hold("collect", 1)
    copied = executor.hold("submit", 2)
    running.start(1)
    running.start(2)
    running.start(3)
    await computes.begun()
    await copied.begun()
    running.worker.abandon()
    order = [computes, copied] if half == "submit" else [copied, computes]
    order[0].released.set()
    assert running.worker.hangs
    assert "close" not in executor.calls
    order[1].released.set()
    await thread_ended(running.worker)
    assert executor.calls[-1] == "close"
    assert executor.threads["close"] == executor.threads["load"]
    assert ("submit", 3) not in executor.calls
    # What was submitted is collected, and what it gave goes back.
    assert executor.released == [1, 2]
    await asyncio.sleep(0)
    assert running.ended == []


async def test_abandoning_frees_a_thread_that_waits_for_room(executor, running):
    pause = executor.hold("collect", 1)
    for number in (1, 2, 3):
        running.start(number)
    await pause.begun()
    running.worker.abandon()
    pause.released.set()
    await thread_ended(running.worker)
    assert ("submit", 3) not in executor.calls
    assert executor.released in ([1], [1, 2])
    assert executor.calls[-1] == "close"


async def test_a_collect_that_never_returns_keeps_the_executor_open(executor, running):
    pause = executor.hold("collect", 1)
    running.start(1)
    await pause.begun()
    with pytest.raises(TimeoutError):
        await running.worker.close(0.01)
    assert running.worker.hangs
    assert "close" not in executor.calls
    pause.released.set()
    await thread_ended(running.worker)
    assert executor.calls[-1] == "close"
    assert executor.released == [1]


class Allocating(Halves):
    """Gives the memory of its inputs, and keeps what it gave."""

    def __init__(self):
        super().__init__()
        self.given = []

    def allocate(self, name, shape, dtype):
        self.given.append(np.empty(shape, dtype))
        return self.given[-1]

    def place(self, handle):
        return [np.shares_memory(handle.inputs["X"], each) for each in self.given].index(True)

    def collect(self, handle):
        place, before = self.place(handle), handle.inputs["X"].copy()
        result = super().collect(handle)
        assert (handle.inputs["X"] == before).all()
        self.calls.append(("memory", place))
        return result


async def test_memory_is_in_use_until_its_batch_is_collected():
    executor = Allocating()
    running = Running(executor)
    await running.worker.load(CONTEXT)
    first, second = executor.hold("collect", 1), executor.hold("submit", 2)
    executor.fail("submit", 3, ValueError("no"))
    for number in range(1, 9):
        running.start(number, rows=1 + number % 4)
    await first.begun()
    await second.begun()
    assert len(executor.given) == 2
    second.released.set()
    first.released.set()
    await running.until(8)
    assert running.answers() == [None if n == 3 else [2.0 * n] * (1 + n % 4) for n in range(1, 9)]
    assert len(executor.given) == 2
    await running.worker.close(BOUND_S)


async def test_each_result_is_released_once(executor, running):
    for number in (1, 2, 3):
        running.start(number)
    await running.until(3)
    for _, executed in running.ended:
        executed.release()
    await running.worker.close(BOUND_S)
    assert executor.released == [1, 2, 3]


async def test_nothing_of_a_batch_is_kept(executor, running):
    array = np.full((1, 1), 7, np.float32)
    kept = weakref.ref(array)
    ended = asyncio.get_running_loop().create_future()
    request = InferenceRequest("m", {"X": Tensor("FP32", array)}, 0)
    running.worker.run([Slice(request, 0, 1)], LAYOUT, ended.set_result)
    (await ended).release()
    del array, request, ended
    # A call on each thread, behind which it has left that batch.
    running.start(1)
    running.start(2)
    await running.until(2)
    gc.collect()
    assert kept() is None


async def test_health_is_asked_where_batches_are_submitted(executor, running):
    running.start(1)
    await running.until(1)
    assert running.worker.overlaps
    assert await running.worker.healthy(BOUND_S) == ""
    assert executor.threads["healthy"] == executor.threads["submit"]


async def test_without_pipelining_batches_are_executed(executor):
    running = Running(executor, pipelining=False)
    await running.worker.load(CONTEXT)
    assert not running.worker.overlaps
    running.start(1)
    running.start(2)
    await running.until(2)
    assert running.answers() == [[2.0], [4.0]]
    assert executor.calls == ["load", ("execute", 1), ("execute", 2)]
    await running.worker.close(BOUND_S)


async def test_a_thread_that_cannot_start_fails_batches(executor, running, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        running.start(1)
        await running.until(1)
    running.start(2)
    await running.until(2)
    assert "can't start new thread" in running.ended[0][1].failure
    assert running.answers() == [None, [4.0]]
    assert ("submit", 1) not in executor.calls
