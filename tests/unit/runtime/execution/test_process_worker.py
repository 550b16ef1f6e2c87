"""Executors in real children: their answers, their ends, and what is left of them."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from batcher.clock import monotonic_ns
from batcher.core.events import FailureCause
from batcher.errors import BackendUnavailable, ModelLoadError, OutOfMemory
from batcher.executor import DTYPES, LoadContext, SequenceRow
from batcher.executors.isolated import processes
from batcher.executors.isolated.messages import INLINE
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.process_worker import ProcessWorker
from batcher.runtime.execution.worker import make_worker
from batcher.runtime.instances.warmup import run_batch
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.interface.padding import Padded
from batcher.runtime.request import InferenceRequest
from batcher.telemetry.reasons import LossReason
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
    ("deed", "reason", "says"),
    [
        ("exit", LossReason.EXITED, "ended with exit code 7"),
        (
            "segfault",
            LossReason.KILLED,
            "killed by SIGSEGV.*Fatal Python error: Segmentation fault.*odd_executors",
        ),
        ("kill", LossReason.KILLED, "killed by SIGKILL"),
        ("close", LossReason.BROKEN, "closed its connection"),
    ],
)
async def test_a_child_that_ends_by_itself_is_lost_with_the_reason(deed, reason, says):
    async with Child("Does") as child:
        executed = await child.run(text(deed))
        assert executed.result is None
        assert executed.cause is FailureCause.DEVICE
        end = await child.why
        assert end.reason is reason
        assert re.search(says, end.in_full), end
        later = await child.run(text(""))
        assert later.failure == end.why
        assert "stderr" not in later.failure  # callers see it


async def test_a_child_leaves_signals_that_end_a_service_to_the_server():
    async with Child("Does") as child:
        executed = await child.run(text("terminate"))
        assert executed.result.outputs["PID"].tolist() == [[child.worker.pid]]


async def test_what_a_child_has_started_is_reaped_where_nothing_else_does():
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: as the first process of a container
    try:
        async with Child("Does") as child:
            before = len(children_of(os.getpid()))
            await asyncio.gather(child.run(text("leave another")), child.why)
            while len(children_of(os.getpid())) >= before:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)
    finally:
        ctypes.CDLL(None).prctl(36, 0)


async def test_a_row_error_that_utf8_cannot_say_is_that_row_s():
    async with Child("Does") as child:
        executed = await child.run(text("wrong row"))
        assert executed.result.row_errors == {0: "no file ?"}


async def test_a_child_imports_from_where_the_server_does(monkeypatch, tmp_path):
    (tmp_path / "batcher").mkdir()
    (tmp_path / "batcher" / "__init__.py").write_text("raise SystemError('another batcher')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with Child("Does") as child:
        assert (await child.run(text(""))).result is not None


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
        ("surrogate", ModelLoadError, r"no file \?"),
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


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (
            "missing_module:Class",
            "model 'm': its executor missing_module:Class could not be imported",
        ),
        ("odd_executors:Missing", "could not be imported: AttributeError"),
        ("odd_executors:DEEDS", "is not an executor: expected a class, got dict"),
        ("batcher.executors.kserve:KserveExecutor", "isolation: got 'process'; allowed: thread"),
        ("batcher.executors.http:HttpExecutor", "HttpExecutor sends batches on to another server"),
    ],
)
async def test_an_executor_that_a_child_cannot_have_is_named(path, reason):
    worker = ProcessWorker(path, "m#0", asyncio.get_running_loop(), monotonic_ns)
    with pytest.raises(ModelLoadError, match=reason):
        await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))


async def test_more_batches_at_once_than_a_child_can_run_are_refused():
    child = Child("Does", max_in_flight=2)
    with pytest.raises(ModelLoadError, match="max_in_flight: got 2; allowed: 1 to 1"):
        await child.worker.load(child.context)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EAGAIN, "Resource temporarily"), (errno.ENOMEM, "Cannot allocate memory")],
)
async def test_a_child_that_the_system_does_not_start_says_why(monkeypatch, number, reason):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", fail)
    child = Child("Does")
    with pytest.raises(ModelLoadError, match=f"model 'm': its child process could not .*{reason}"):
        await child.worker.load(child.context)


async def test_a_missing_interpreter_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/missing/python")
    child = Child("Does")
    with pytest.raises(ModelLoadError, match=r"\(/missing/python\): No such file"):
        await child.worker.load(child.context)


async def test_no_file_descriptor_is_named():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for few in range(open_files(), open_files() + 12):  # each of them is the one that is missing
        child = Child("Does")
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        try:
            with pytest.raises(ModelLoadError, match="Too many open files"):
                await child.worker.load(child.context)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_load_that_is_cancelled_leaves_nothing():
    child = Child("Does", {"load": "hang"})
    loading = asyncio.create_task(child.worker.load(child.context))
    while not child.worker.pid or state_of(child.worker.pid) != "S":  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await child.worker.gone()


async def test_a_load_that_is_cancelled_at_once_leaves_nothing():
    child = Child("Does")
    loading = asyncio.create_task(child.worker.load(child.context))
    await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await child.worker.gone()


@pytest.mark.parametrize(
    ("deed", "cause", "failure"),
    [
        ("raise", FailureCause.UNKNOWN, "ValueError: no"),
        ("input", FailureCause.INPUT, "bad value"),
        ("busy", FailureCause.OVERLOADED, "full"),
        ("sys.exit", FailureCause.UNKNOWN, "SystemExit: bye"),
    ],
)
async def test_what_an_executor_raises_arrives_and_the_child_goes_on(deed, cause, failure):
    async with Child("Does") as child:
        executed = await child.run(text(deed))
        assert (executed.cause, executed.failure) == (cause, failure)
        assert executed.retry_after_ns == (5 if deed == "busy" else None)
        assert (await child.run(text(""))).result is not None


def of_every_datatype(rows, columns):
    rng = np.random.default_rng(rows)
    found = {}
    for name, dtype in DTYPES.items():
        if name == "BYTES":
            values = [[b"x" * int(n) for n in row] for row in rng.integers(0, 99, (rows, columns))]
            array = np.empty((rows, columns), object)
            array[...] = np.array(values, object).reshape(rows, columns)
        else:
            array = rng.integers(0, 2, (rows, columns)).astype(dtype)
        found[f"I_{name}"] = Tensor(name, array)
    return found


def listed(executed):
    assert executed.result is not None, executed.failure
    found = {
        name: (array.dtype, array.shape, array.tolist())
        for name, array in executed.result.outputs.items()
    }
    return found, executed.result.row_errors


@pytest.mark.parametrize("columns", [0, 1, 3, INLINE, 3 * INLINE])
async def test_answers_are_those_of_a_thread(columns):
    from odd_executors import Echo

    loop, context = asyncio.get_running_loop(), LoadContext("m", "1", 0, "cpu", 8, {})
    found = []
    for isolation in ("thread", "process"):
        worker = make_worker(Echo(), "m#0", loop, monotonic_ns, isolation=isolation)
        layout = layout_of(await worker.load(context))
        answers = []
        for name in (None, *DTYPES) if columns < INLINE else DTYPES:
            inputs = of_every_datatype(3, columns if name != "BYTES" else min(columns, 9000))
            if name is not None:  # the others are left out
                inputs = {f"I_{name}": inputs[f"I_{name}"]}
                inputs["SHARED"] = Tensor("FP32", np.zeros(columns, np.float32))
            wanted = tuple(f"O_{key[2:]}" for key in inputs if key != "SHARED")
            requests = [InferenceRequest("m", dict(inputs), 0, outputs=wanted) for _ in range(2)]
            slices = [Slice(requests[0], 0, 3), Slice(requests[1], 1, 3)]
            for batch in (slices, slices[:1]):
                executed = await run_batch(worker, batch, layout)
                answers.append(listed(executed))
                executed.release()
                del executed
        found.append(answers)
        await worker.close(30)
    assert found[0] == found[1]


async def test_padded_batches_are_those_of_a_thread():
    from odd_executors import Echo

    loop, context = asyncio.get_running_loop(), LoadContext("m", "1", 0, "cpu", 8, {})
    arrays = [np.full((2, columns), columns, np.float32) for columns in (1, 20_000)]
    padded = Padded({"I_FP32": (30_000,)}, {"I_FP32": -1.0}, {})
    slices = [
        Slice(
            InferenceRequest("m", {"I_FP32": Tensor("FP32", array)}, 0, outputs=("O_FP32",)),
            0,
            2,
            padded,
        )
        for array in arrays
    ]
    found = []
    for isolation in ("thread", "process"):
        worker = make_worker(Echo(), "m#0", loop, monotonic_ns, isolation=isolation)
        layout = layout_of(await worker.load(context))
        found.append(listed(await run_batch(worker, slices, layout)))
        await worker.close(30)
    assert found[0] == found[1]


async def test_all_that_a_batch_says_arrives():
    async with Child("Reports", {"a": [1]}) as child:
        request = InferenceRequest(
            "m",
            {"X": Tensor("FP32", np.zeros((1, 1), np.float32))},
            0,
            parameters={"p": 2**63, "q": 1},
            deadline_ns=123,
            metadata=(("m-bin", b"\xff"), ("m", "v"), ("other", "no")),
        )
        row = SequenceRow("s", 3, start=True, end=False)
        slices = [Slice(request, 0, 1, None, row)]
        executed = await run_batch(child.worker, slices, child.layout)
        (said,) = executed.result.outputs["Y"][0]
        expected = (
            [("p", 2**63)],
            [("m", "v"), ("m-bin", b"\xff")],
            None,
            123,
            [row],
            1,
            child.context,
        )
        assert said.decode() == repr(expected)


async def test_coroutines_run_at_the_same_time_and_alone():
    async with Child("Awaits", max_in_flight=8) as child:
        assert not child.worker.queues
        three = {"X": Tensor("FP32", np.full((1, 1), 3, np.float32))}
        one = {"X": Tensor("FP32", np.full((1, 1), 1, np.float32))}
        together = [child.run(three) for _ in range(3)]
        alone = run_batch(child.worker, child.slices(one), child.layout, alone=True)
        *found, last = await asyncio.gather(*together, alone)
        assert last.result.outputs["Y"].tolist() == [[1.0]]
        assert all(each.result is not None for each in found)
        assert await child.worker.healthy(10) == "so so"


async def test_a_coroutine_is_cancelled():
    async with Child("Awaits", max_in_flight=8) as child:
        ended = asyncio.get_running_loop().create_future()
        never = child.slices({"X": Tensor("FP32", np.full((1, 1), 9, np.float32))})
        cancel = child.worker.run(never, child.layout, ended.set_result)
        assert cancel()
        assert (await ended).cause is FailureCause.ABANDONED


async def test_the_reports_of_a_watch_arrive():
    async with Child("Awaits") as child:
        reports = []
        with pytest.raises(Exception, match="ValueError: watched enough"):
            await child.worker.watch(reports.append)
        assert reports == ["first", ""]


async def test_a_batch_that_waits_for_another_can_be_cancelled():
    async with Child("Does") as child:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        cancel_first = child.worker.run(child.slices(text("stop")), child.layout, first.set_result)
        await until_it("stop", child.worker.pid)
        cancel = child.worker.run(child.slices(text("exit")), child.layout, second.set_result)
        assert not cancel_first()  # it is being executed
        assert cancel()
        os.kill(child.worker.pid, signal.SIGCONT)
        assert (await first).result is not None
        assert (await second).cause is FailureCause.ABANDONED
        assert await child.worker.healthy(30) == ""


async def test_batches_of_all_sizes_end_in_the_order_in_which_they_came():
    async with Child("Echo") as child:
        order, ended = [], asyncio.Event()
        for number, columns in enumerate([1, 600_000, 2, 70_000, 3, 400_000, 4]):
            inputs = {"I_FP32": Tensor("FP32", np.full((1, columns), number, np.float32))}
            slices = child.slices(inputs, outputs=("O_FP32",))

            def done(executed, number=number, columns=columns):
                array = executed.result.outputs["O_FP32"]
                assert array.shape == (1, columns)
                assert (array == number).all()
                order.append(number)
                if len(order) == 7:
                    ended.set()

            child.worker.run(slices, child.layout, done)
        await ended.wait()
        assert order == list(range(7))


async def test_outputs_that_are_kept_are_not_written_over():
    async with Child("Echo") as child:
        kept = []
        for number in range(30):
            inputs = {"I_FP32": Tensor("FP32", np.full((2, 20_000), number, np.float32))}
            executed = await run_batch(
                child.worker, child.slices(inputs, outputs=("O_FP32",)), child.layout
            )
            kept.append(executed.result.outputs["O_FP32"][1:])
        assert all((array == number).all() for number, array in enumerate(kept))
    assert all(
        (array == number).all() for number, array in enumerate(kept)
    )  # of a child that is gone


async def test_what_a_child_prints_is_told_by_line():
    async with Child("Does") as child:
        lines = []
        child.worker.line = lambda *line: lines.append(line)
        await child.run(text("print ä" + "x" * 10_000))
    assert {stream for stream, _ in lines} == {"stdout"}
    assert "".join(line for _, line in lines) == "print ä" + "x" * 10_000
