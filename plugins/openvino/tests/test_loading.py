"""What a model file has, on which device and in which precision it runs, and what is refused."""

import numpy as np
import pytest

pytest.importorskip("openvino", reason="needs OpenVINO: make runtimes runs it")
pytest.importorskip("onnx")

import onnx
import openvino

from batcher.errors import ModelLoadError, OutOfMemory
from batcher.executor import Batch, TensorSpec
from batcher_openvino import compiling
from batcher_openvino.devices import openvino_device
from batcher_openvino.messages import cause_of, one_line

FLOAT = onnx.TensorProto.FLOAT


def test_inputs_and_outputs_are_those_of_the_file(load, models):
    for path in (models.masked(), models.converted(models.masked())):
        _, metadata = load(path)
        assert metadata.inputs == (
            TensorSpec("X", "FP32", (-1, -1)),
            TensorSpec("MASK", "FP32", (-1, -1)),
        )
        assert metadata.outputs == (TensorSpec("SUM", "FP32", (-1,)),)
        assert metadata.platform == "openvino"
        assert metadata.properties["device"] == "CPU"
        assert metadata.properties["precision"] == "f32"
        assert metadata.batch_sizes == ()


def test_an_input_without_rows_has_its_own_shape(load, models):
    _, metadata = load(models.biased(), batched={"b": False})
    assert metadata.inputs[1] == TensorSpec("b", "FP32", (4,), batched=False)


def test_a_fixed_first_axis_is_the_only_batch_size(load, models):
    _, metadata = load(models.matmul(rows=4), max_batch_size=4)
    assert metadata.batch_sizes == (4,)
    assert metadata.inputs[0].shape == (-1, 3)
    with pytest.raises(ModelLoadError, match=r"fixes the first axis to 4.*max_batch_size is 8"):
        load(models.matmul(rows=4))


def test_a_model_without_a_batch_axis_is_as_its_file(load, models):
    executor, metadata = load(models.matmul(rows=4), max_batch_size=0)
    assert metadata.inputs == (TensorSpec("X", "FP32", (4, 3), batched=False),)
    assert metadata.batch_sizes == ()
    result = executor.execute(Batch({"X": np.ones((4, 3), np.float32)}, 1))
    assert result.outputs["Y"].shape == (4, 2)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((), "input 'X' has no axes; the first must be the batch axis"),
        ((3, "n"), "the model file fixes the first axis to 3"),
    ],
)
def test_axes_that_are_no_rows_are_refused(load, models, shape, said):
    with pytest.raises(ModelLoadError, match=said):
        load(models.identity(FLOAT, shape=shape))


def test_inputs_that_do_not_agree_on_rows_are_refused(load, models):
    with pytest.raises(ModelLoadError, match=r"'X' varies, 'b' is fixed to 4.*batched: false"):
        load(models.biased())


def test_texts_are_refused(load, models):
    with pytest.raises(ModelLoadError, match="input 'X' is of type string, which"):
        load(models.identity(onnx.TensorProto.STRING))


@pytest.mark.parametrize("device", ["cuda:0", "tpu", "auto:", "auto:cuda", "gpu:x"])
def test_an_unknown_device_is_named(load, models, device):
    with pytest.raises(ModelLoadError, match=f"m': device: got {device}; allowed: cpu, gpu"):
        load(models.matmul(), device=device)


def test_a_device_that_is_missing_is_named_with_those_that_are_there():
    with pytest.raises(
        ModelLoadError, match="got gpu:1, and OpenVINO finds CPU, GPU; a GPU or NPU"
    ):
        openvino_device("gpu:1", ["CPU", "GPU"], "model 'm'")
    with pytest.raises(ModelLoadError, match="got auto:npu,cpu, and OpenVINO finds CPU"):
        openvino_device("auto:npu,cpu", ["CPU"], "model 'm'")


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("cpu", "CPU"),
        ("gpu", "GPU"),
        ("gpu:1", "GPU.1"),
        ("GPU.0", "GPU.0"),
        ("npu", "NPU"),
        ("auto", "AUTO"),
        ("auto:gpu:1,cpu", "AUTO:GPU.1,CPU"),
        ("hetero:gpu,cpu", "HETERO:GPU,CPU"),
    ],
)
def test_devices_have_openvino_s_names(device, name):
    assert openvino_device(device, ["CPU", "GPU.0", "GPU.1", "NPU"], "") == name


def test_a_precision_that_the_device_lacks_is_refused(load, models):
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, capability in (("fp16", "FP16"), ("bf16", "BF16")):
        if capability in able:
            _, metadata = load(models.matmul(), precision=precision)
            assert metadata.properties["precision"] == precision.replace("fp", "f")
        else:
            said = f"option precision: got {precision}, and CPU would compute in"
            with pytest.raises(ModelLoadError, match=said):
                load(models.matmul(), precision=precision)


def test_threads_streams_and_other_properties_are_used(load, models):
    _, metadata = load(models.matmul(), streams=2, threads=2, properties={"PERF_COUNT": True})
    assert metadata.properties["streams"] == "2"
    with pytest.raises(ModelLoadError, match="option properties: CPU refuses LOG_LEVEL"):
        load(models.matmul(), properties={"LOG_LEVEL": "LOUD"})


def test_compiled_models_are_kept_in_the_cache(load, models, tmp_path):
    load(models.matmul(), cache_dir="cache")
    kept = sorted((tmp_path / "cache").iterdir())
    assert kept
    load(models.matmul(), cache_dir="cache")
    assert sorted((tmp_path / "cache").iterdir()) == kept


def test_a_model_is_compiled_for_the_sizes_and_buckets_in_use(load, models):
    buckets = {"X": {1: (4, 8)}, "MASK": {1: (4, 8)}}
    executor, metadata = load(models.masked(), static_shapes=True, sizes=(2, 6), buckets=buckets)
    assert metadata.batch_sizes == (2, 6)
    assert sorted(executor._by_shape) == [
        ((2, 4), (2, 4)),
        ((2, 8), (2, 8)),
        ((6, 4), (6, 4)),
        ((6, 8), (6, 8)),
    ]
    _, powers = load(models.matmul(), static_shapes=True, max_batch_size=6)
    assert powers.batch_sizes == (1, 2, 4, 6)
    assert powers.properties["static_shapes"] == "4"
    assert powers.fixed_buckets


def test_fixed_shapes_that_cannot_be_are_refused(load, models):
    with pytest.raises(
        ModelLoadError, match=r"static_shapes: axis 1 of input 'X' has any length; allowed"
    ):
        load(models.masked(), static_shapes=True)
    many = {"X": {1: tuple(range(1, 20))}, "MASK": {1: tuple(range(1, 20))}}
    with pytest.raises(ModelLoadError, match="are 76 shapes; allowed: 64"):
        load(models.masked(), static_shapes=True, buckets=many)
    wrong = {"X": {1: (4,)}, "MASK": {1: (5,)}}
    with pytest.raises(
        ModelLoadError, match=r"static_shapes: the model cannot have inputs of \[1, 4\]"
    ):
        load(models.masked(), static_shapes=True, buckets=wrong)


def test_a_device_without_room_for_the_model_is_out_of_memory(load, models, monkeypatch):
    core = openvino.Core()

    class Full:
        available_devices = ("CPU",)

        def read_model(self, path):
            return core.read_model(path)

        def compile_model(self, *_):
            raise RuntimeError("Exception from src/x.cpp:1:\n[GPU] CL_OUT_OF_RESOURCES\n")

    monkeypatch.setattr("batcher_openvino.executor.ov.Core", Full)
    with pytest.raises(OutOfMemory, match=r"m': CPU has no room for the model: \[GPU\] CL_OUT_OF"):
        load(models.matmul())


def test_messages_are_one_line_without_places_in_the_source():
    text = "Exception from src/inference/src/cpp/core.cpp:117:\nCheck 'x > 0' failed at src/a.h:2:\nNo\n  way.\n\n"
    assert one_line(RuntimeError(text)) == "No way."
    assert one_line(RuntimeError("")) == "RuntimeError"
    assert len(one_line(RuntimeError("x" * 10**7))) == 300


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("std::bad_alloc"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("[GPU] clFlush, error code: -14"), "device"),
        (RuntimeError("ParameterMismatch: Can not clone with new dims"), "input"),
        (RuntimeError("something"), "unknown"),
    ],
)
def test_causes(error, cause):
    assert cause_of(error) == cause


def test_every_option_is_in_the_readme():
    import re
    from pathlib import Path

    page = Path(compiling.__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)`", page, re.MULTILINE)
    assert sorted(named) == sorted(compiling.OpenVinoOptions.model_fields)
