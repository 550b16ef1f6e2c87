"""The order of copies, computation and graphs, with a device that does everything on the CPU at once."""

from contextlib import nullcontext

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")

import torch

from batcher.errors import ModelLoadError, OutOfMemory
from batcher.executor import Allocates, Batch, ExecutionError, Pipelines
from batcher.testing import ExecutorContract
from batcher_torch import TorchExecutor, executor, memory
from batcher_torch.gpu import Gpu


class Graph:
    """Runs what was recorded again, in the memory of the first value."""

    def __init__(self, gpu, run, value):
        self.gpu, self.run, self.value = gpu, run, value

    def replay(self):
        self.gpu.done.append("replay")
        again = self.run()
        for old, new in zip(leaves(self.value), leaves(again), strict=True):
            old.copy_(new)


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


class HereGpu:
    """What `Gpu` does, at once and on the CPU. `done` is what it was asked for, in order."""

    def __init__(self):
        self.device = torch.device("cpu")
        self.copy_in, self.compute, self.copy_out = "copy_in", "compute", "copy_out"
        self.done = []
        self.waits = []
        self.graphs = 0
        self.no_pinned = False

    def on(self, stream):
        self.done.append(f"on {stream}")
        return nullcontext()

    def mark(self, stream):
        self.done.append(f"mark {stream}")
        return f"end of {stream}"

    def after(self, stream, event):
        self.done.append(f"{stream} after {event}")

    def wait(self, event):
        self.waits.append(event)
        if isinstance(event, Exception):
            raise event

    def finish(self):
        self.done.append("finish")

    def pinned(self, shape, dtype):
        if self.no_pinned:
            raise RuntimeError("CUDA error: out of memory")
        return torch.full(shape, 99, dtype=dtype)

    def free_unused(self):
        self.done.append("free")

    def record(self, run):
        self.graphs += 1
        with torch.inference_mode():
            value = run()
        return Graph(self, run, value), value


@pytest.fixture
def gpu(monkeypatch):
    """Every `cuda` device is a `HereGpu` from now on."""
    gpu = HereGpu()
    monkeypatch.setattr(executor, "_gpu", lambda device: gpu)
    monkeypatch.setattr(executor, "find_device", lambda name, label: FakeDevice())
    monkeypatch.setattr(memory, "device_memory", lambda device: (1 << 40, 1 << 40))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "here")
    return gpu


class FakeDevice:
    """A device that says `cuda` of itself, and is the CPU for tensors."""

    type = "cuda"

    def __str__(self):
        return "cuda:0"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Modules and zeros for a `FakeDevice` are made on the CPU."""
    from batcher_torch import computing, loading

    real = computing.Computing.__init__

    def init(self, model, options, device):
        real(self, model, options, torch.device("cpu"))

    placed = loading._placed
    monkeypatch.setattr(computing.Computing, "__init__", init)
    monkeypatch.setattr(loading, "_placed", lambda f, o, d: placed(f, o, torch.device("cpu")))


@pytest.fixture
def here(gpu, load):
    """Loads a model onto the device: `here(options, ...)` -> executor, metadata."""
    return lambda options, **rest: load(options, device="cuda:0", **rest)


def batch(array, name="X"):
    return Batch({name: array}, len(array))


class TestContract(ExecutorContract):
    max_batch_size = 4

    def make_executor(self):
        return TorchExecutor()

    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 3), np.float32)}

    @pytest.fixture
    def options(self, models, gpu):
        return models.affine()

    @pytest.fixture
    def bad_options(self, options):
        return {"weights": {**options, "weights": "gone.pt"}}


class TestContractWithGraphs(TestContract):
    @pytest.fixture
    def options(self, models, gpu):
        return models.affine(cuda_graphs=True)


def test_an_executor_pipelines_and_allocates_on_a_gpu_alone(models, here, load):
    executor, _ = here(models.affine())
    assert isinstance(executor, Pipelines)
    assert isinstance(executor, Allocates)


def test_an_executor_on_a_cpu_has_no_halves(models, load, monkeypatch):
    executor, _ = load(models.affine())
    assert not isinstance(executor, Pipelines)
    assert not isinstance(executor, Allocates)


def test_nothing_waits_before_collect(models, here, gpu, floats):
    executor, _ = here(models.affine())
    inputs = floats(2, 3)
    gpu.done.clear()
    running = executor.submit(batch(inputs))
    assert gpu.waits == []
    assert gpu.done == [
        "on copy_in",
        "mark copy_in",
        "on compute",
        "compute after end of copy_in",
        "mark compute",
        "on copy_out",
        "copy_out after end of compute",
        "mark copy_out",
    ]
    outputs = executor.collect(running).outputs
    assert gpu.waits == ["end of copy_out"]
    np.testing.assert_allclose(outputs["Y"], inputs @ np.arange(6).reshape(3, 2), rtol=1e-6)


def test_a_batch_holds_its_memory_until_it_is_collected(models, here, floats):
    executor, _ = here(models.affine())
    inputs = floats(2, 3)
    first = executor.submit(batch(inputs))
    held_batch, _, tensors, found = first.held
    assert held_batch.inputs["X"] is inputs
    assert tensors["X"].data_ptr() != inputs.ctypes.data
    assert found.keys() == {"Y"}


def test_two_batches_on_their_way_are_apart(models, here, floats):
    executor, _ = here(models.affine(cuda_graphs=True))
    one, two = floats(2, 3), 2 * floats(2, 3)
    first, second = executor.submit(batch(one)), executor.submit(batch(two))
    found = [executor.collect(each).outputs["Y"] for each in (first, second)]
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_allclose(found[0], one @ weight, rtol=1e-6)
    np.testing.assert_allclose(found[1], two @ weight, rtol=1e-6)


def test_what_has_begun_is_finished_when_a_batch_fails(models, here, gpu):
    executor, _ = here(models.lookup())
    gpu.done.clear()
    with pytest.raises(ExecutionError, match="index out of range"):
        executor.submit(batch(np.array([[77]]), "IDS"))
    assert gpu.done[-1] == "finish"
    found = executor.execute(batch(np.array([[1]]), "IDS"))
    assert found.outputs["EMBEDDED"].tolist() == [[[2, 3]]]


def test_no_memory_makes_room_and_says_so(models, here, gpu, floats, monkeypatch):
    executor, _ = here(models.affine())
    gpu.done.clear()

    def full(tensors):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(
        executor._computing, "_model", type("M", (), {"run": full, "arrange": full})
    )
    with pytest.raises(ExecutionError) as caught:
        executor.submit(batch(floats(2, 3)))
    assert caught.value.cause == "memory"
    assert gpu.done[-2:] == ["finish", "free"]
    assert executor.healthy() is None


def test_an_error_of_the_device_shows_in_its_health(models, here, floats):
    executor, _ = here(models.affine())
    running = executor.submit(batch(floats(1, 3)))
    broken = type(running)(torch.AcceleratorError("CUDA error: an illegal access"), {}, ())
    with pytest.raises(ExecutionError) as caught:
        executor.collect(broken)
    assert caught.value.cause == "device"
    assert executor.healthy() == "the device failed: CUDA error: an illegal access"


def test_input_buffers_are_arrays_of_page_locked_memory(models, here, gpu, caplog):
    executor, _ = here(models.affine())
    for dtype in (np.float32, np.uint16, np.bool_, np.float16, np.int64):
        array = executor.allocate("X", (4, 3), np.dtype(dtype))
        assert (array.shape, array.dtype) == ((4, 3), dtype)
        assert array.flags.writeable
        assert array.flags.c_contiguous
    gpu.no_pinned = True
    assert executor.allocate("X", (4, 3), np.dtype(np.float32)).shape == (4, 3)
    assert "no pinned memory for inputs of (4, 3)" in caplog.text


def test_graphs_are_recorded_for_exactly_the_sizes_and_buckets_in_use(models, here, gpu, load):
    buckets = {"IDS": {1: (4, 8)}}
    executor, metadata = here(
        models.lookup(cuda_graphs=True), batch_sizes=(1, 2, 8), buckets=buckets
    )
    assert gpu.graphs == 6
    assert metadata.batch_sizes == (1, 2, 8)
    assert metadata.properties["cuda_graphs"] == "6"
    gpu.done.clear()
    known = executor.execute(batch(np.full((2, 4), 3), "IDS")).outputs["EMBEDDED"]
    assert "replay" in gpu.done
    gpu.done.clear()
    other = executor.execute(batch(np.full((2, 5), 3), "IDS")).outputs["EMBEDDED"]
    assert "replay" not in gpu.done
    assert known[0, 0].tolist() == other[0, 0].tolist() == [6, 7]


def test_graphs_without_sizes_are_of_powers_of_two(models, here, gpu):
    _, metadata = here(models.affine(cuda_graphs=True), max_batch_size=24)
    assert metadata.batch_sizes == (1, 2, 4, 8, 16, 24)
    assert gpu.graphs == 6


def test_graphs_need_to_know_every_length(models, here):
    with pytest.raises(ModelLoadError) as caught:
        here(models.lookup(cuda_graphs=True))
    assert "option cuda_graphs: axis 1 of input 'IDS' may have any length" in str(caught.value)
    assert "models[].padding" in str(caught.value)
    with pytest.raises(ModelLoadError, match="make 300 shapes; allowed: up to 256"):
        here(
            models.lookup(cuda_graphs=True),
            batch_sizes=tuple(range(1, 4)),
            buckets={"IDS": {1: tuple(range(1, 101))}},
        )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), OutOfMemory),
        (RuntimeError("operation not permitted when stream is capturing"), ModelLoadError),
    ],
)
def test_a_model_that_cannot_be_recorded_does_not_load(models, here, gpu, monkeypatch, error, kind):
    def fail(run):
        raise error

    monkeypatch.setattr(gpu, "record", fail)
    with pytest.raises(ModelLoadError) as caught:
        here(models.affine(cuda_graphs=True))
    assert type(caught.value) is kind
    assert "option cuda_graphs: X [8, 3]: " in str(caught.value)


def test_graphs_are_let_go_with_the_executor(models, here, gpu, load):
    executor, _ = here(models.affine(cuda_graphs=True))
    runner = executor._runner
    gpu.done.clear()
    runner.close()
    assert runner.graphs == 0
    assert gpu.done == ["finish", "free"]


def test_a_device_that_failed_does_not_keep_an_executor_from_closing(models, gpu, here, caplog):
    executor, _ = here(models.affine(cuda_graphs=True))
    gpu.finish = lambda: (_ for _ in ()).throw(torch.AcceleratorError("CUDA error: gone"))
    executor._runner.close()
    assert executor._runner.graphs == 0
    assert "the device gave no memory back: CUDA error: gone" in caplog.text


def test_a_model_is_compiled_where_it_computes(models, here, gpu, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda run, **_: lambda *a, **k: gpu.done.append("run"))
    _, metadata = here(models.affine(compile=True), batch_sizes=(2,))
    assert gpu.done[:3] == ["on compute", "run", "finish"]
    assert metadata.properties["compiled_shapes"] == "1"


def test_the_stand_in_has_the_methods_of_the_device():
    public = {name for name in vars(Gpu) if not name.startswith("_")}
    assert public == {name for name in vars(HereGpu) if not name.startswith("_")}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
class TestOnAGpu(ExecutorContract):
    max_batch_size = 4
    tolerance = 1e-3

    def make_executor(self):
        return TorchExecutor()

    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 3), np.float32)}

    @pytest.fixture(autouse=True)
    def on_the_cpu(self):
        """Nothing stands in for anything."""

    @pytest.fixture
    def options(self, models):
        return models.affine(cuda_graphs=True)

    @pytest.fixture
    def bad_options(self, options):
        return {"weights": {**options, "weights": "gone.pt"}}

    def _context(self, options, base_dir):
        from dataclasses import replace

        return replace(super()._context(options, base_dir), device="cuda:0")
