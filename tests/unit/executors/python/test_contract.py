"""Functions and classes of every style pass the contract of executors."""

from pathlib import Path

import numpy as np
import pytest

from batcher import plugins
from batcher.executor import LoadContext
from batcher.executors.python import AsyncPythonExecutor, PythonExecutor
from batcher.testing import ExecutorContract

FUNCTIONS = Path(__file__).with_name("functions.py")


class PythonContract(ExecutorContract):
    """What the styles have in common; `name` is what `functions.py` has."""

    name = ""

    @pytest.fixture
    def options(self):
        return self.given()

    def given(self):
        return {"target": f"{FUNCTIONS}:{self.name}"}

    @pytest.fixture
    def bad_options(self, options):
        return {
            "target": {**options, "target": f"{FUNCTIONS}:missing"},
            "args": {**options, "args": {"no_such_argument": 1}},
            "per_row": {**options, "per_row": "often"},
            "tarqet": {**options, "tarqet": "a:b"},
        }

    def make_executor(self):
        context = LoadContext("m", "1", 0, "cpu", 8, self.given())
        return plugins.for_model(PythonExecutor, context)()

    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 4), np.float32)}


def texts(rng, rows):
    words = ["a", "bb", "ccc", "d\u00e9j\u00e0", "\u6587\u5b57"]
    made = np.empty(rows, np.object_)
    made[:] = [" ".join(rng.choice(words, 1 + rng.integers(5))).encode() for _ in range(rows)]
    return made


class TestBatchFunction(PythonContract):
    name = "doubled"


class TestAsyncBatchFunction(PythonContract):
    name = "doubled_later"


class TestClass(PythonContract):
    name = "Scaler"

    def given(self):
        return super().given() | {"args": {"factor": 3}}


class TestMethodOfClass(PythonContract):
    name = "Scaler.predict"

    def given(self):
        tensors = {
            "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "Y", "datatype": "FP32", "shape": [-1, 4]}],
        }
        return super().given() | tensors


class TestAsyncClass(PythonContract):
    name = "AsyncScaler"


class TestSharedInputs(PythonContract):
    name = "shifted"

    def make_inputs(self, rows, rng):
        bias = np.arange(4, dtype=np.float32)
        return super().make_inputs(rows, rng) | {"bias": bias}


class TestListsAndVariableAxes(PythonContract):
    name = "summarized"

    def make_inputs(self, rows, rng):
        return {"numbers": rng.standard_normal((rows, 5)), "words": texts(rng, rows)}


class TestRowFunction(PythonContract):
    name = "judged"

    def make_inputs(self, rows, rng):
        return {"text": texts(rng, rows), "amount": rng.uniform(0, 200, rows)}

    def bad_inputs(self):
        return {"text": np.array([b"a", b"\xff"], object), "amount": np.array([-1.0, 1.0])}

    def example_parameter(self, name):
        return {"limit": 50.0}[name]


class TestAsyncRowFunction(PythonContract):
    name = "tokens"

    def make_inputs(self, rows, rng):
        return {"text": texts(rng, rows)}

    def bad_inputs(self):
        return {"text": np.array([b"a", b"\0"], object)}

    def example_parameter(self, name):
        return {"short": True}[name]


class TestBatchArgument(PythonContract):
    name = "sized"

    def batch_dependent(self):
        return {"SIZE"}


@pytest.mark.parametrize(
    ("name", "kind"), [("doubled", PythonExecutor), ("tokens", AsyncPythonExecutor)]
)
def test_the_class_follows_from_what_the_target_is(name, kind):
    context = LoadContext("m", "1", 0, "cpu", 8, {"target": f"{FUNCTIONS}:{name}"})
    assert plugins.for_model(PythonExecutor, context) is kind
