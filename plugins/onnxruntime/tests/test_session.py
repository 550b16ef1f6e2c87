"""Session options, TensorRT's profiles as far as they need no GPU, and a device without memory."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from batcher.errors import ModelLoadError, OutOfMemory
from batcher.executor import Batch, ExecutionError, LoadContext
from batcher_onnxruntime import session
from batcher_onnxruntime.options import OnnxRuntimeOptions


@pytest.fixture
def profiles(models, tmp_path):
    """What TensorRT is told for a file."""

    def profiles(path, *, sizes=(), buckets=None, **given):
        options = OnnxRuntimeOptions.model_validate({"path": str(path), **given})
        context = LoadContext(
            "m", "1", 0, "cuda", 8, {}, tmp_path, batch_sizes=sizes, buckets=buckets or {}
        )
        return session._profiles(context, options, "model 'm'")

    return profiles


def test_profiles_are_read_from_the_file(models, profiles):
    found = profiles(models.lookup(), sizes=(2, 4), buckets={"IDS": {1: (16, 64)}})
    assert found["trt_profile_min_shapes"] == "IDS:2x16"
    assert found["trt_profile_opt_shapes"] == found["trt_profile_max_shapes"] == "IDS:4x64"


def test_without_bounds_there_is_no_profile_and_a_warning(models, profiles, caplog):
    assert profiles(models.lookup()) == {}
    assert "axis 1 of input 'IDS' may have any length" in caplog.text


def test_a_file_that_does_not_load_has_no_profile(tmp_path, profiles):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    assert profiles(path) == {}


def test_the_folder_of_engines_is_made_where_the_configuration_lies(models, profiles, tmp_path):
    profiles(models.matmul(), engine_cache="caches/engines")
    assert (tmp_path / "caches" / "engines").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ModelLoadError, match=r"engine_cache: cannot make the folder .*: "):
        profiles(models.matmul(), engine_cache="file/engines")


def test_session_options_are_passed_on(models, load):
    entry = {"session.disable_prepacking": True, "optimization.minimal_build_optimizations": ""}
    load(models.matmul(), session_options=entry, memory={"cpu_arena": False})


def test_session_options_that_onnxruntime_refuses_are_named(models, load):
    with pytest.raises(ModelLoadError, match=r"option session_options: onnxruntime .* refuses 'k"):
        load(models.matmul(), session_options={"k" * 2000: "x"})
    with pytest.raises(ModelLoadError, match="allowed: option spinning says that"):
        load(models.matmul(), session_options={"session.intra_op.allow_spinning": "1"})


@pytest.mark.parametrize("io_binding", [False, True])
def test_a_batch_for_which_there_is_no_memory_says_so_and_the_next_one_runs(
    models, load, io_binding
):
    path = models.write(
        "huge",
        [
            helper.make_node("Squeeze", ["N"], ["S"]),
            helper.make_node("Unsqueeze", ["S", "ZERO"], ["SHAPE"]),
            helper.make_node("ConstantOfShape", ["SHAPE"], ["Y"]),
        ],
        {"N": (TensorProto.INT64, [1, 1])},
        {"Y": (TensorProto.FLOAT, ["n"])},
        weights={"ZERO": np.array([0])},
    )
    executor, _ = load(path, max_batch_size=1, io_binding=io_binding)
    with pytest.raises(ExecutionError) as caught:
        executor.execute(Batch({"N": np.array([[1 << 50]])}, 1))
    assert caught.value.cause == "memory"
    assert "ONNXRuntimeError" not in str(caught.value)
    assert len(executor.execute(Batch({"N": np.array([[1]])}, 1)).outputs["Y"]) == 1


def test_a_model_that_does_not_fit_the_device_is_told_from_others(models, load, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("Available memory of 0 is smaller than requested bytes of 154140672")

    monkeypatch.setattr(session.ort, "InferenceSession", full)
    with pytest.raises(OutOfMemory, match=r"matmul\.onnx could not be loaded"):
        load(models.matmul())
