"""The same model passes the contract of executors in every runtime."""

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")
pytest.importorskip("openvino", reason="needs OpenVINO: make runtimes runs it")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from batcher.plugins import find_executor
from batcher.testing import ExecutorContract


class Same(ExecutorContract):
    max_batch_size = 4
    runtime = ""

    @pytest.fixture(params=["mlp", "pooled"], autouse=True)
    def model(self, request, same_models):
        self.name, self.same_models = request.param, same_models

    @pytest.fixture
    def options(self, model, same_models):
        return same_models.options(self.runtime, self.name)

    @pytest.fixture
    def base_dir(self, same_models):
        return same_models.folder

    @pytest.fixture
    def context(self, options, base_dir, model):
        return replace(self._context(options, base_dir), device="cpu")

    def make_executor(self):
        return find_executor(self.runtime)()

    def make_inputs(self, rows, rng):
        return self.same_models.inputs(self.name, rows, rng)


class TestOnnxRuntime(Same):
    runtime = "onnxruntime"


class TestTorch(Same):
    runtime = "torch"


class TestOpenVino(Same):
    runtime = "openvino"


class TestPython(Same):
    runtime = "python"
