"""The executor in each form of the protocol, against a server of the tests."""

import numpy as np
import pytest

from batcher.executors.http.executor import HttpExecutor
from batcher.testing import ExecutorContract


class TestJson(ExecutorContract):
    def make_executor(self):
        return HttpExecutor()

    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 2), np.float32)}

    def bad_inputs(self):
        return {"X": np.array([[1, 2], [np.nan, 0]], np.float32)}

    @pytest.fixture
    def options(self, v2):
        return v2

    @pytest.fixture
    def bad_options(self, options):
        tensor = options.get("inputs", [{"name": "X", "datatype": "FP32", "shape": [-1]}])[0]
        outputs = options.get("outputs", [tensor])
        return {
            "no_such": {**options, "no_such": 1},
            "url": {**options, "url": "ftp://host"},
            "protocol": {**options, "protocol": "v3"},
            "path": {**options, "path": "no slash"},
            "tls": {**options, "tls": {}},
            "binary": {**options, "binary": True},
            "inputs": {**options, "inputs": [{**tensor, "shape": [4]}], "outputs": outputs},
            "datatype": {**options, "inputs": [{**tensor, "datatype": "F"}], "outputs": outputs},
            "metadata": {**options, "metadata": {"Host": "x"}},
            "forward_metadata": {**options, "forward_metadata": ["x-a-bin"]},
        }


class TestInstances(TestJson):
    @pytest.fixture
    def options(self, v1):
        return v1


class TestBinary(TestJson):
    def bad_inputs(self):
        return None

    @pytest.fixture
    def options(self, binary):
        return binary
