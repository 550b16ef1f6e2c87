"""The executor with each way to send a batch, against a TorchServe of the tests."""

import numpy as np
import pytest

from batcher.executors.torchserve import TorchserveExecutor
from batcher.testing import ExecutorContract

from . import fake


class TestSafetensors(ExecutorContract):
    def make_executor(self):
        return TorchserveExecutor()

    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 2), np.float32)}

    def bad_inputs(self):
        return {"X": np.array([[1, 2], [13, 0]], np.float32)}

    @pytest.fixture
    def options(self, given):
        return given

    @pytest.fixture
    def bad_options(self, options):
        return {
            "no_such": {**options, "no_such": 1},
            "url": {**options, "url": "http://host"},
            "encoding": {**options, "encoding": "raw"},
            "send": {**options, "send": "all"},
            "inputs": {**options, "inputs": []},
            "outputs": {**options, "outputs": [{**fake.Y, "shape": [2]}]},
            "datatype": {**options, "encoding": None, "inputs": [{**fake.X, "datatype": "BYTES"}]},
            "instances": {**options, "encoding": None, "instances": "value"},
            "bytes": {**options, "encoding": None, "bytes": "base64"},
            "archive": {**options, "management_url": None, "archive": "a.mar"},
            "workers": {**options, "workers": 0},
            "max_batch_delay": {**options, "max_batch_delay": "2ms"},
            "forward_parameters": {**options, "forward_parameters": ["data"]},
        }


class TestWholeJson(TestSafetensors):
    def bad_inputs(self):
        return {"X": np.array([[1, 2], [np.nan, 0]], np.float32)}

    @pytest.fixture
    def options(self, given, server):
        server.answer = fake.instances_model
        return {**given, "encoding": "json"}


class TestJsonRows(TestWholeJson):
    @pytest.fixture
    def options(self, given, server):
        server.answer = fake.json_row_model
        return {**given, "send": "rows", "encoding": "json"}

    @pytest.fixture
    def bad_options(self, options):
        return {
            "forward_parameters": {**options, "forward_parameters": ["X"]},
            "encoding": {**options, "encoding": "safetensors"},
            "max_batch_delay": {**options, "max_batch_delay": "1.5ms"},
        }


class TestRawRows(TestJsonRows):
    def bad_inputs(self):
        return None

    @pytest.fixture
    def options(self, given, server):
        server.answer = fake.raw_row_model
        return {**given, "send": "rows", "outputs": [fake.Y]}

    @pytest.fixture
    def bad_options(self, options):
        return {"outputs": {**options, "outputs": [fake.Y, fake.N]}}
