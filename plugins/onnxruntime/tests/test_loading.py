import os
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from batcher.errors import ModelLoadError
from batcher.executor import Batch, TensorSpec
from batcher_onnxruntime import executor
from batcher_onnxruntime.messages import is_out_of_memory
from batcher_onnxruntime.session import open_session

IDS = ("rows", "seq")


@pytest.fixture
def refusal(load, capfd):
    """Why a file cannot be loaded; the reason is one line, and nothing else is printed."""

    def refusal(path, **rest):
        with pytest.raises(ModelLoadError) as caught:
            load(path, **rest)
        message = str(caught.value)
        assert message.startswith("model 'm'")
        assert "\n" not in message
        assert capfd.readouterr() == ("", "")
        return message

    return refusal


def test_signature_is_read_from_the_file(models, load):
    _, metadata = load(models.lookup())
    assert metadata.platform == "onnxruntime_onnx"
    assert metadata.inputs == (TensorSpec("IDS", "INT64", (-1, -1), dims=IDS),)
    assert metadata.outputs == (TensorSpec("EMBEDDED", "FP32", (-1, -1, 2), dims=(*IDS, None)),)
    assert metadata.properties["runtime"] == f"onnxruntime {ort.__version__}"
    assert metadata.properties["providers"] == "cpu"
    assert "fallback" not in metadata.properties


def test_relative_paths_start_at_the_base_dir(models, load):
    load(models.matmul().name)


def test_missing_file_is_named(tmp_path, refusal):
    path = tmp_path / "none.onnx"
    assert refusal(path).endswith(
        f"option path: cannot read the model file {path}: no such file or directory"
    )


def test_folder_is_not_a_file(tmp_path, refusal):
    assert f"{tmp_path} is not a file" in refusal(tmp_path)


def test_pipe_is_not_a_file(tmp_path, refusal):
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refusal(tmp_path / "pipe")


def test_empty_file_is_refused(tmp_path, refusal):
    (tmp_path / "empty.onnx").touch()
    assert "is empty" in refusal(tmp_path / "empty.onnx")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.95])
def test_truncated_file_is_refused(models, refusal, share):
    path = models.matmul()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refusal(path)
    assert str(path) in message
    assert "not a complete ONNX model: it is truncated" in message


def test_file_of_another_format_is_refused(tmp_path, refusal):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"<html>not found</html>" * 20)
    assert "in another format" in refusal(path)


def test_operator_set_that_is_not_there_is_named_with_the_newest(models, refusal):
    message = refusal(models.matmul(opset=99))
    assert "needs operator set 99 of ai.onnx" in message
    assert f"onnxruntime {ort.__version__} supports up to " in message


def test_ir_version_that_is_not_there_is_named(models, refusal):
    assert "needs IR version 99" in refusal(models.matmul(ir=99))


@pytest.mark.parametrize("domain", ["", "com.example"])
def test_operator_that_is_not_there_is_named(models, refusal, domain):
    path = models.identity(TensorProto.FLOAT)
    model = onnx.load(path)
    model.graph.node[0].op_type = "Frobnicate"
    model.graph.node[0].domain = domain
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    path.write_bytes(model.SerializeToString())
    message = refusal(path)
    assert "uses the operator" in message
    assert "Frobnicate" in message


def test_other_errors_keep_the_message_of_onnxruntime_without_source_lines(models, refusal):
    path = models.write(
        "unbound",
        [helper.make_node("Add", ["X", "NOWHERE"], ["Y"])],
        {"X": (TensorProto.FLOAT, ["rows", 2])},
        {"Y": (TensorProto.FLOAT, ["rows", 2])},
    )
    message = refusal(path)
    assert "could not be loaded by onnxruntime" in message
    assert "NOWHERE" in message
    assert "ONNXRuntimeError" not in message
    assert "::" not in message


@pytest.mark.parametrize("max_batch_size", [4, 8])
def test_rows_that_the_file_fixes_are_the_only_batch_size(models, load, max_batch_size):
    _, metadata = load(models.matmul(rows=4), max_batch_size=max_batch_size)
    assert metadata.batch_sizes == (4,)
    assert metadata.inputs[0].shape == (-1, 3)
    assert metadata.outputs[0].shape == (-1, 2)


def test_a_batch_is_filled_up_here_where_the_configuration_wants_fewer_rows(models, load):
    executor, metadata = load(models.matmul(rows=4), max_batch_size=3)
    assert metadata.batch_sizes == ()
    result = executor.execute(Batch({"X": np.eye(2, 3, dtype=np.float32)}, 2))
    assert result.outputs["Y"].tolist() == [[0, 1], [2, 3]]


def test_input_whose_first_axis_is_fixed_while_others_vary_is_refused(models, refusal):
    message = refusal(models.biased(), max_batch_size=4)
    assert "that of 'X' varies, 'b' is fixed to 4" in message
    assert "{input: b, batched: false} in inputs" in message
    assert "set batching.max_batch_size to 0" in message


def test_input_that_all_rows_share_has_its_true_shape(models, load):
    _, metadata = load(models.biased(), batched={"b": False})
    assert metadata.inputs == (
        TensorSpec("X", "FP32", (-1, 4), dims=("rows", None)),
        TensorSpec("b", "FP32", (4,), batched=False),
    )


def test_without_a_batch_axis_shapes_are_as_in_the_file(models, load):
    _, metadata = load(models.biased(), max_batch_size=0)
    assert [spec.shape for spec in metadata.inputs] == [(-1, 4), (4,)]
    assert [spec.shape for spec in metadata.outputs] == [(-1, 4)]
    path = models.identity(TensorProto.FLOAT, shape=())
    assert load(path, max_batch_size=0)[1].inputs[0].shape == ()


@pytest.mark.parametrize("name", ["?", "None", None])
def test_axes_that_the_exporter_knew_nothing_of_have_no_names(models, load, name):
    _, metadata = load(models.identity(TensorProto.FLOAT, shape=(name, 3, name)))
    assert metadata.inputs == (TensorSpec("X", "FP32", (-1, 3, -1)),)


def test_input_without_axes_is_refused(models, refusal):
    path = models.identity(TensorProto.FLOAT, shape=())
    message = refusal(path)
    assert "input 'X' has no axes" in message
    assert "batched: false" in message


def test_output_without_rows_is_refused(models, refusal):
    path = models.write(
        "total",
        [helper.make_node("ReduceSum", ["X"], ["TOTAL"], keepdims=0)],
        {"X": (TensorProto.FLOAT, ["rows", 2])},
        {"TOTAL": (TensorProto.FLOAT, [])},
    )
    assert "output 'TOTAL' has no axes" in refusal(path)


def test_output_whose_first_axis_is_not_the_rows_is_refused(models, refusal):
    path = models.write(
        "turned",
        [helper.make_node("Transpose", ["X"], ["Y"])],
        {"X": (TensorProto.FLOAT, ["rows", 2])},
        {"Y": (TensorProto.FLOAT, [2, "rows"])},
    )
    assert "output 'Y' has shape [2, -1]; its first axis must be the batch axis" in refusal(path)


def test_inputs_that_fix_different_rows_are_refused(models, refusal):
    path = models.write(
        "uneven",
        [helper.make_node("Add", ["A", "B"], ["Y"])],
        {"A": (TensorProto.FLOAT, [2, 3]), "B": (TensorProto.FLOAT, [1, 3])},
        {"Y": (TensorProto.FLOAT, [2, 3])},
    )
    message = refusal(path, max_batch_size=1)
    assert "that of 'A' is fixed to 2, 'B' is fixed to 1" in message
    assert "{input: B, batched: false} in inputs" in message
    assert "set batching.max_batch_size to 0" in message


def test_model_without_inputs_is_refused(models, refusal):
    path = models.write(
        "constant",
        [helper.make_node("Identity", ["W"], ["Y"])],
        {},
        {"Y": (TensorProto.FLOAT, [2])},
        weights={"W": np.zeros(2, np.float32)},
    )
    assert "has no inputs" in refusal(path)
    assert "max_batch_size to 0" in refusal(path)


def test_bfloat16_is_refused_with_the_remedy_where_onnxruntime_is_too_old(
    models, refusal, monkeypatch
):
    monkeypatch.delattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type", raising=False)
    message = refusal(models.identity(TensorProto.BFLOAT16))
    assert "input 'X' is bfloat16" in message
    assert "use 1.21 or newer, or add a Cast" in message


def test_type_without_a_datatype_is_refused(models, refusal):
    assert "tensor(complex64)" in refusal(models.identity(TensorProto.COMPLEX64))


@pytest.mark.parametrize(
    ("text", "room"),
    [
        (
            "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9",
            False,
        ),
        ("Available memory of 0 is smaller than requested bytes of 154140672", False),
        ("CUDA failure 2: out of memory ; GPU=0", False),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", False),
        ("std::bad_alloc", False),
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.", True),
        ("the allocation of nodes to providers failed", True),
    ],
)
def test_a_device_without_room_is_told_from_a_broken_model(text, room):
    assert is_out_of_memory(RuntimeError(text)) is not room
    assert is_out_of_memory(MemoryError())


def test_which_gpu_it_is_is_told(models, load, monkeypatch):
    _, on_cpu = load(models.matmul())
    assert on_cpu.gpu is None

    def opened(*arguments):
        return replace(open_session(*arguments), device="cuda", device_id=2)

    monkeypatch.setattr(executor, "open_session", opened)
    monkeypatch.setattr(executor.OnnxRuntimeExecutor, "_bind", lambda *_: None)
    _, on_gpu = load(models.matmul())
    assert on_gpu.gpu == 2, "as CUDA counts"
