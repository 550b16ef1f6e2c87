import numpy as np
import pytest
from onnx import TensorProto

from batcher.testing import ExecutorContract
from batcher_onnxruntime import OnnxRuntimeExecutor


class Full:
    """A session whose next run finds no memory."""

    def __init__(self, executor):
        self.executor, self.session = executor, executor._session

    def run(self, *_):
        self.executor._session = self.session
        raise RuntimeError("Failed to allocate memory for requested buffer of size 1099511627776")


class Contract(ExecutorContract):
    max_batch_size = 5

    def make_executor(self):
        return OnnxRuntimeExecutor()

    def lack_memory(self, executor):
        executor._session = Full(executor)
        return True


class TestMatMul(Contract):
    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 3), np.float32)}

    @pytest.fixture
    def options(self, models):
        return {"path": models.matmul().name}

    @pytest.fixture
    def bad_options(self, options):
        def wrong(**values):
            return {**options, **values}

        return {
            "path": {},
            "pth": wrong(pth="x"),
            "providers[1]": wrong(providers=["cpu", "cudda"]),
            "providers": wrong(providers=[]),
            "provider_options.cudda": wrong(provider_options={"cudda": {}}),
            "threads.intra_op": wrong(threads={"intra_op": -1}),
            "threads.inter": wrong(threads={"inter": 1}),
            "spinning": wrong(spinning="yes"),
            "allow_fallback": wrong(allow_fallback=1),
            "graph_optimization": wrong(graph_optimization="most"),
            "memory.limit": wrong(providers=["cuda"], memory={"limit": "much"}),
            "memory.extend": wrong(memory={"extend": "slowly"}),
            "memory.size": wrong(memory={"size": 1}),
            "io_binding": wrong(io_binding="yes"),
            "cuda_graphs": wrong(cuda_graphs=True),
            "engine_cache": wrong(engine_cache="engines"),
            "session_options.a": wrong(session_options={"a": [1]}),
        }


class TestFixedRows(TestMatMul):
    """A file whose first axis is fixed to the largest batch: shorter batches are filled up."""

    @pytest.fixture
    def options(self, models):
        return {"path": models.matmul(rows=5).name}


class TestStrings(Contract):
    def make_inputs(self, rows, rng):
        words = np.array([b"", "\N{SNOWMAN}".encode(), b"a\0b", b"plain"], np.object_)
        return {"X": rng.choice(words, (rows, 2))}

    def bad_inputs(self):
        return {"X": np.array([[b"fine", b"\xff"], [b"also", b"fine"]], np.object_)}

    @pytest.fixture
    def options(self, models):
        return {"path": models.identity(TensorProto.STRING).name}


class TestSeveralInputsAndOutputs(Contract):
    def make_inputs(self, rows, rng):
        return {
            "A": rng.standard_normal((rows, 2, 2), np.float32),
            "B": rng.standard_normal((rows, 2, 2), np.float32),
            "C": rng.integers(-9, 9, rows),
        }

    @pytest.fixture
    def options(self, models):
        return {"path": models.several().name, "threads": {"intra_op": 1, "inter_op": 2}}


class TestSharedInput(Contract):
    """An input without a batch axis, and one with it."""

    batched = {"b": False}  # noqa: RUF012 - a test's constant

    def make_inputs(self, rows, rng):
        return {
            "X": rng.standard_normal((rows, 4), np.float32),
            "b": np.arange(4, dtype=np.float32),
        }

    @pytest.fixture
    def options(self, models):
        return {"path": models.biased().name}


class TestNoBatchAxis(TestSharedInput):
    """The same file, one request at a time."""

    max_batch_size = 0
    batched = {}  # noqa: RUF012 - a test's constant


class TestVariableAxis(Contract):
    def make_inputs(self, rows, rng):
        return {"IDS": rng.integers(0, 5, (rows, 3))}

    def bad_inputs(self):
        return {"IDS": np.array([[1, 77]])}

    @pytest.fixture
    def options(self, models):
        return {"path": models.lookup().name, "graph_optimization": "none", "spinning": True}
