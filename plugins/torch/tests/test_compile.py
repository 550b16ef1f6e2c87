"""Models that are compiled when they load. Compiling needs a C++ compiler, which may be missing."""

import shutil
import threading

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")

import torch

from batcher.errors import ModelLoadError
from batcher.executor import Batch

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


@pytest.fixture
def compiled(monkeypatch):
    """The shapes that PyTorch was asked to compile for."""
    shapes = []
    real = torch.compile

    def compile_eagerly(run, **options):
        def backend(module, inputs):
            shapes.append(
                tuple(tuple(each.shape) for each in inputs if isinstance(each, torch.Tensor))
            )
            return module.forward

        return real(run, dynamic=options["dynamic"], backend=backend)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    yield shapes
    torch._dynamo.reset()


def test_a_model_is_compiled_for_exactly_the_sizes_in_use(models, load, compiled):
    executor, metadata = load(
        models.lookup(compile=True), batch_sizes=(1, 4, 8), buckets={"IDS": {1: (2, 6)}}
    )
    expected = {(rows, length) for rows in (1, 4, 8) for length in (2, 6)}
    assert {shapes[-1] for shapes in compiled} == expected
    assert len(compiled) == 6
    assert metadata.batch_sizes == (1, 4, 8)
    assert metadata.properties["compiled_shapes"] == "6"
    assert metadata.fixed_buckets
    for rows, length in [*expected, (3, 2), (4, 5)]:
        ids = np.full((rows, length), 3)
        found = executor.execute(Batch({"IDS": ids}, rows)).outputs["EMBEDDED"]
        assert found[0, 0].tolist() == [6, 7]
    assert len(compiled) == 6, "a batch waited for the compiler"


def test_more_sizes_than_pytorch_compiles_by_itself(models, load, compiled, tmp_path):
    sizes = tuple(range(1, 21))
    (tmp_path / "modules").mkdir()
    # One module for both instances: PyTorch's limits are those of its code.
    (tmp_path / "factories.py").rename(tmp_path / "modules" / "compiled_for_many.py")
    options = models.affine(compile=True, python_path=["modules"])
    options["factory"] = "compiled_for_many:Affine"
    for instance in (1, 2):
        loader = threading.Thread(
            target=load, args=(options,), kwargs={"max_batch_size": 20, "batch_sizes": sizes}
        )
        loader.start()
        loader.join()
        assert len(compiled) == 20 * instance


def test_a_model_without_sizes_is_compiled_for_powers_of_two(models, load, compiled):
    _, metadata = load(models.affine(compile=True), max_batch_size=6)
    assert metadata.batch_sizes == (1, 2, 4, 6)
    assert len(compiled) == 4


def test_no_size_is_compiled_that_the_program_does_not_take(models, load, compiled):
    rows = torch.export.Dim("rows", min=2, max=6)
    options = models.export(models.Affine(), (torch.zeros(3, 3),), ({0: rows},), compile=True)
    _, metadata = load(options, max_batch_size=32)
    assert metadata.batch_sizes == (2, 4, 6)
    assert metadata.max_batch_size == 6


def test_a_model_without_a_batch_axis_has_one_shape(models, load, compiled):
    options = models.factory("Affine", [("X", "FP32", [2, 3])], [("Y", "FP32", [2, 2])])
    _, metadata = load({**options, "compile": True}, max_batch_size=0)
    assert metadata.batch_sizes == ()
    assert len(compiled) == 1


def test_a_model_that_cannot_be_compiled_does_not_load(models, load, monkeypatch):
    def broken(run, **options):
        def fail(*args, **kwargs):
            raise RuntimeError("no compiler")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ModelLoadError, match=r"option compile: X \[8, 3\]: no compiler"):
        load(models.affine(compile=True))


def test_a_compiled_model_answers_as_the_model_does(models, load, floats):
    inputs = floats(2, 3)
    executor, _ = load(models.affine(compile=True), max_batch_size=2)
    found = executor.execute(Batch({"X": inputs}, 2)).outputs["Y"]
    np.testing.assert_allclose(found, inputs @ np.arange(6).reshape(3, 2), rtol=1e-5, atol=1e-6)
