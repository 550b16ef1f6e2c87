import numpy as np
import pytest

pytest.importorskip("openvino", reason="needs OpenVINO: make runtimes runs it")

from batcher.testing import ExecutorContract
from batcher_openvino import OpenVinoExecutor


class TestOnnx(ExecutorContract):
    def make_executor(self):
        return OpenVinoExecutor()

    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 3), np.float32)}

    @pytest.fixture
    def options(self, models):
        return {"path": str(models.matmul())}

    @pytest.fixture
    def bad_options(self, options, tmp_path):
        (tmp_path / "empty.xml").touch()
        (tmp_path / "damaged.onnx").write_bytes(b"no model")
        (tmp_path / "alone.xml").write_text("<net/>")

        def wrong(**values):
            return {**options, **values}

        return {
            "path": {},
            "missing.onnx: no such file": wrong(path="missing.onnx"),
            "empty.xml is empty": wrong(path="empty.xml"),
            "needs the file alone.bin": wrong(path="alone.xml"),
            "damaged.onnx could not be read": wrong(path="damaged.onnx"),
            "allowed: a file .xml or .onnx": wrong(path="model.pb"),
            "performance_hint": wrong(performance_hint="fast"),
            "streams": wrong(streams=-1),
            "threads": wrong(threads="two"),
            "precision": wrong(precision="int8"),
            "static_shapes": wrong(static_shapes="yes"),
            "properties: got NUM_STREAMS": wrong(properties={"NUM_STREAMS": 2}),
            "properties: CPU refuses NO_SUCH": wrong(properties={"NO_SUCH": 1}),
            "cache_dir": wrong(cache_dir=3),
            "theads": wrong(theads=2),
        }


class TestOpenVino(TestOnnx):
    @pytest.fixture
    def options(self, models):
        return {"path": str(models.converted(models.matmul()))}


class TestTwoAtOnce(TestOnnx):
    @pytest.fixture
    def options(self, models):
        return {"path": str(models.matmul()), "performance_hint": "throughput", "streams": 2}


class TestStaticShapes(TestOnnx):
    max_batch_size = 3

    @pytest.fixture
    def options(self, models):
        return {"path": str(models.matmul()), "static_shapes": True}


class TestFixedRows(TestOnnx):
    @pytest.fixture
    def options(self, models):
        return {"path": str(models.matmul(rows=8))}


class TestAuto(TestOnnx):
    @pytest.fixture
    def context(self, options, base_dir):
        from dataclasses import replace

        return replace(self._context(options, base_dir), device="auto:cpu")


class TestVariableAxes(TestOnnx):
    def make_inputs(self, rows, rng):
        mask = (rng.random((rows, 5)) < 0.7).astype(np.float32)
        return {"X": rng.standard_normal((rows, 5), np.float32), "MASK": mask}

    @pytest.fixture
    def options(self, models):
        return {"path": str(models.masked())}


class TestSharedInput(TestOnnx):
    batched = {"b": False}  # noqa: RUF012

    def make_inputs(self, rows, rng):
        return {
            "X": rng.standard_normal((rows, 4), np.float32),
            "b": np.arange(4, dtype=np.float32),
        }

    @pytest.fixture
    def options(self, models):
        return {"path": str(models.biased())}
