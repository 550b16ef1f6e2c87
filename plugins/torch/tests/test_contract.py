import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")

from batcher.testing import ExecutorContract
from batcher_torch import TorchExecutor

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Contract(ExecutorContract):
    max_batch_size = 5

    def make_executor(self):
        return TorchExecutor()


class TestFactory(Contract):
    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 3), np.float32)}

    @pytest.fixture
    def options(self, models):
        return models.affine(args={"bias": 1.5})

    @pytest.fixture
    def bad_options(self, options):
        def wrong(**values):
            return {**options, **values}

        one = [{"name": "X", "datatype": "FP32", "shape": [-1, 3]}]
        return {
            "path": {},
            "path and factory": wrong(path="model.pt2"),
            "factory": wrong(factory="factories.Affine"),
            "factories.py has no 'Afine'": wrong(factory="factories.py:Afine"),
            "python_path": wrong(factory="no_such_module:Affine"),
            "args": {"path": "model.pt2", "args": {"bias": 1}},
            "bies": wrong(args={"bies": 1}),
            "weights": wrong(weights="missing.safetensors"),
            "inputs": wrong(inputs=[]),
            "inputs[0].shape[1]": wrong(inputs=[{**one[0], "shape": [-1, -2]}]),
            "inputs[0].datatype": wrong(inputs=[{**one[0], "datatype": "BYTES"}]),
            "outputs": wrong(outputs=[]),
            "precision": wrong(precision="fp8"),
            "channels_last": wrong(channels_last="yes"),
            "compile": wrong(compile="yes"),
            "compile_mode": wrong(compile_mode="max-autotune-no-cudagraphs"),
            "cuda_graphs": wrong(cuda_graphs=True),
            "allow_pickle": wrong(allow_pickle=True),
            "threads.intra_op": wrong(threads={"intra_op": -1}),
            "threads.inter": wrong(threads={"inter": 1}),
        }


class TestExported(TestFactory):
    @pytest.fixture
    def options(self, models):
        return models.exported_affine()

    @pytest.fixture
    def bad_options(self, options):
        return {"path": {"path": "missing.pt2"}, "pth": {**options, "pth": 1}}


class TestScript(TestExported):
    @pytest.fixture
    def options(self, models):
        return models.script(models.Affine(), [("X", "FP32", [-1, 3])], [("Y", "FP32", [-1, 2])])


class TestCompiled(TestExported):
    @pytest.fixture
    def options(self, models):
        return models.affine(compile=True)

    max_batch_size = 2


class TestAutocast(TestExported):
    tolerance = 0.02

    @pytest.fixture
    def options(self, models):
        return models.affine(precision="bf16", threads={"intra_op": 1})


class TestSeveralInputsAndOutputs(Contract):
    def make_inputs(self, rows, rng):
        return {
            "A": rng.standard_normal((rows, 2, 2), np.float32),
            "B": rng.standard_normal((rows, 2, 2), np.float32),
            "C": rng.integers(-9, 9, rows),
        }

    @pytest.fixture
    def options(self, models):
        square = [-1, 2, 2]
        return models.factory(
            "Several",
            [("A", "FP32", square), ("B", "FP32", square), ("C", "INT64", [-1])],
            [("SUM", "FP32", square), ("SIZE", "INT64", [-1])],
        )


class TestBfloat16(Contract):
    """Raw bits in and out."""

    def make_inputs(self, rows, rng):
        values = rng.integers(-9, 9, (rows, 2)).astype(np.float32)
        return {"X": (values.view(np.uint32) >> 16).astype(np.uint16)}

    @pytest.fixture
    def options(self, models):
        return models.factory("identity", [("X", "BF16", [-1, 2])], [("Y", "BF16", [-1, 2])])


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
        given = [("X", "FP32", [-1, 4]), ("b", "FP32", [4])]
        return models.factory("Biased", given, [("Y", "FP32", [-1, 4])])


class TestNoBatchAxis(TestSharedInput):
    """The same model, one request at a time."""

    max_batch_size = 0
    batched = {}  # noqa: RUF012 - a test's constant


class TestVariableAxis(Contract):
    def make_inputs(self, rows, rng):
        return {"IDS": rng.integers(0, 5, (rows, 3))}

    def bad_inputs(self):
        return {"IDS": np.array([[1, 77]])}

    @pytest.fixture
    def options(self, models):
        return models.exported_lookup(
            outputs=[{"name": "EMBEDDED", "datatype": "FP32", "shape": ["rows", "seq", 2]}]
        )


class TestChannelsLast(Contract):
    def make_inputs(self, rows, rng):
        return {"IMAGE": rng.standard_normal((rows, 3, 5, 6), np.float32)}

    @pytest.fixture
    def options(self, models):
        return models.factory(
            "Convolution",
            [("IMAGE", "FP32", [-1, 3, 5, 6])],
            [("MEAN", "FP32", [-1, 4])],
            channels_last=True,
        )
