"""What comes out of a batch, what of it is copied, and what a failure is called."""

import logging
import threading
import weakref

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")

import torch

from batcher.executor import DTYPES, Batch, ExecutionError
from batcher_torch.messages import MAX_LENGTH, cause_of, is_out_of_memory, one_line

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

ROW = ([("X", "FP32", [-1, 2])], [("Y", "FP32", [-1, 2])])


def read_only(array):
    array = array.view()
    array.flags.writeable = False
    return array


def answer(executor, **inputs):
    first = next(iter(inputs.values()))
    batch = Batch({n: read_only(a) for n, a in inputs.items()}, len(first) if first.shape else 1)
    return executor.execute(batch).outputs


def failure(executor, **inputs):
    with pytest.raises(ExecutionError) as caught:
        answer(executor, **inputs)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def code(models, tmp_path):
    """Options for a model whose source is given: a function of tensors."""

    def code(body, inputs=ROW[0], outputs=ROW[1], **rest):
        names = ", ".join(name for name, _, _ in inputs)
        lines = "\n        ".join(body.split("\n"))
        text = f"import torch\ndef make():\n    def model({names}):\n        {lines}\n    return model\n"
        (tmp_path / "code.py").write_text(text, encoding="utf-8")
        return {**models.factory("make", inputs, outputs, **rest), "factory": "code.py:make"}

    return code


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
@pytest.mark.parametrize("kind", ["factory", "export"])
def test_every_datatype_comes_back_as_it_went_in(models, load, datatype, kind):
    from batcher_torch.datatypes import TORCH_DTYPES

    if kind == "factory":
        options = models.factory("identity", [("X", datatype, [-1, 2])], [("Y", datatype, [-1, 2])])
    else:
        example = torch.zeros(3, 2, dtype=TORCH_DTYPES[datatype])

        class Same(torch.nn.Module):
            def forward(self, X):  # noqa: N803 - the input's name
                return {"Y": X.clone()}

        options = models.export(Same(), (example,), ({0: torch.export.Dim("rows")},))
    executor, metadata = load(options)
    assert metadata.inputs[0].datatype == metadata.outputs[0].datatype == datatype
    inputs = np.array([[0, 1], [1, 0], [1, 1]], DTYPES[datatype])
    outputs = answer(executor, X=inputs)["Y"]
    assert outputs.dtype == inputs.dtype
    np.testing.assert_array_equal(outputs, inputs)


def test_bfloat16_is_computed_and_not_its_bits(code, load):
    options = code("return X + 1", [("X", "BF16", [-1, 1])], [("Y", "BF16", [-1, 1])])
    executor, _ = load(options)
    bits = (np.array([[2.0], [-1.5]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    found = answer(executor, X=bits)["Y"].astype(np.uint32) << 16
    assert found.view(np.float32).tolist() == [[3.0], [-0.5]]


def test_inputs_are_read_where_they_are(code, load):
    executor, _ = load(code("model.seen = X\nreturn X + 0"))
    inputs = np.ones((2, 2), np.float32)
    answer(executor, X=inputs)
    seen = executor._computing._model.run.seen
    assert seen.data_ptr() == inputs.ctypes.data


def test_a_model_that_writes_to_its_inputs_gets_copies(code, load, caplog):
    executor, _ = load(code("return X.mul_(2)"))
    warm_up, inputs = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    with caplog.at_level(logging.WARNING):
        answer(executor, X=warm_up)
        first = answer(executor, X=inputs)["Y"]
    assert first.tolist() == [[2, 2], [2, 2]]
    assert inputs.tolist() == [[1, 1], [1, 1]]
    assert caplog.text.count("writes to its inputs") == 1


@pytest.mark.parametrize("body", ["return X", "return X[:, :]", "return X.view(-1, 2).detach()"])
def test_an_output_in_the_memory_of_an_input_is_copied(code, load, body):
    executor, _ = load(code(body))
    inputs = np.ones((2, 2), np.float32)
    output = answer(executor, X=inputs)["Y"]
    inputs[:] = 9
    assert output.tolist() == [[1, 1], [1, 1]]


def test_an_output_in_the_memory_of_a_weight_is_copied(models, load, tmp_path):
    (tmp_path / "code.py").write_text(
        "import torch\n"
        "class Counts(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('count', torch.zeros(1, 2))\n"
        "    def forward(self, X):\n"
        "        self.count += 1\n"
        "        return self.count\n",
        encoding="utf-8",
    )
    executor, _ = load({**models.factory("Counts", *ROW), "factory": "code.py:Counts"})
    inputs = np.zeros((1, 2), np.float32)
    first = answer(executor, X=inputs)["Y"]
    second = answer(executor, X=inputs)["Y"]
    assert (first.tolist(), second.tolist()) == ([[1, 1]], [[2, 2]])


def test_outputs_are_contiguous_arrays(code, load):
    outputs = [("Y", "FP32", [-1, 2]), ("Z", "FP32", [-1, 2, 2]), ("R", "FP32", [-1, 2])]
    executor, _ = load(
        code(
            "return X.T.contiguous().T, X[:, :, None].expand(-1, -1, 2), X.conj()", outputs=outputs
        )
    )
    for array in answer(executor, X=np.arange(6, dtype=np.float32).reshape(3, 2)).values():
        assert array.flags.c_contiguous


def test_only_outputs_that_are_wanted_are_returned(models, load):
    square = [-1, 2, 2]
    options = models.factory(
        "Several",
        [("A", "FP32", square), ("B", "FP32", square), ("C", "INT64", [-1])],
        [("SUM", "FP32", square), ("SIZE", "INT64", [-1])],
    )
    executor, _ = load(options)
    inputs = {"A": np.ones((1, 2, 2), np.float32), "B": np.ones((1, 2, 2), np.float32)}
    batch = Batch({**inputs, "C": np.array([-3])}, 1, outputs=frozenset({"SIZE"}))
    assert {n: a.tolist() for n, a in executor.execute(batch).outputs.items()} == {"SIZE": [3]}


TWO = [("Y", "FP32", [-1, 2]), ("Z", "FP32", [-1, 2])]


@pytest.mark.parametrize(
    ("body", "outputs", "said"),
    [
        ("return {'Z': X}", ROW[1], "returned no output 'Y'; returned: Z"),
        ("return {}", ROW[1], "returned no output 'Y'; returned: none"),
        ("return X.double()", ROW[1], "output 'Y' is FP64; declared is FP32"),
        ("return X.to(torch.complex64)", ROW[1], "output 'Y' is torch.complex64"),
        ("return X[:1]", ROW[1], "output 'Y' has shape [1, 2]; declared is [-1, 2], and the batch"),
        ("return X[:, :1]", ROW[1], "output 'Y' has shape [3, 1]; declared is [-1, 2]"),
        ("return X[0]", ROW[1], "output 'Y' has shape [2]"),
        ("return X.numpy()", ROW[1], "output 'Y' is of type ndarray; allowed: a tensor"),
        ("return None", ROW[1], "output 'Y' is of type NoneType"),
        ("return X.to_sparse()", ROW[1], "output 'Y' is torch.sparse_coo"),
        ("return X, X, X", TWO, "returned 3 values; declared are 2 outputs: Y, Z"),
        ("return X", TWO, "returned one Tensor; declared are 2 outputs: Y, Z"),
    ],
)
def test_outputs_that_are_not_as_declared_are_named(code, load, body, outputs, said):
    executor, _ = load(code(body, outputs=outputs))
    error = failure(executor, X=np.ones((3, 2), np.float32))
    assert said in str(error)
    assert error.cause == "unknown"


@pytest.mark.parametrize(
    "body",
    [
        "return X, X + 1",
        "return [X, X + 1]",
        "return {'Z': X + 1, 'Y': X, 'more': None}",
        "import collections\nreturn collections.namedtuple('Pair', 'Z Y')(X + 1, X)",
    ],
)
def test_outputs_are_matched_by_name_or_by_place(code, load, body):
    executor, _ = load(code(body, outputs=TWO))
    found = answer(executor, X=np.zeros((1, 2), np.float32))
    assert {n: a.tolist() for n, a in found.items()} == {"Y": [[0, 0]], "Z": [[1, 1]]}


def test_inputs_are_matched_by_name_or_by_place(models, load):
    two = [("Y", "FP32", [-1]), ("X", "FP32", [-1])]
    outputs = [("SUM", "FP32", [-1]), ("PRODUCT", "FP32", [-1])]
    path = models.folder / "code.py"
    path.write_text("def make(): return lambda X, Y: (X - Y, X * Y)", encoding="utf-8")
    one, three = np.array([1], np.float32), np.array([3], np.float32)
    executor, _ = load({**models.factory("make", two, outputs), "factory": "code.py:make"})
    assert answer(executor, X=one, Y=three)["SUM"].tolist() == [-2]
    others = [("B", "FP32", [-1]), ("A", "FP32", [-1])]
    executor, _ = load({**models.factory("make", others, outputs), "factory": "code.py:make"})
    assert answer(executor, B=one, A=three)["SUM"].tolist() == [-2]


def test_a_program_gets_its_constants_and_its_structure(models, load):
    class Nested(torch.nn.Module):
        def forward(self, pair, factor, *, shift):
            return [pair["a"] * factor + shift, None, pair["b"]]

    rows = {0: torch.export.Dim("rows")}
    example = {"a": torch.zeros(3, 2), "b": torch.zeros(3)}
    options = models.export(
        KeywordOnly(Nested()),
        (example, 2.0, torch.zeros(3, 1)),
        ({"a": rows, "b": rows}, None, rows),
    )
    executor, metadata = load(options)
    names = [spec.name for spec in metadata.inputs]
    given = {spec.name: np.ones((2, *spec.shape[1:]), np.float32) for spec in metadata.inputs}
    assert len(names) == 3
    found = executor.execute(Batch(given, 2)).outputs
    assert {n: a.tolist() for n, a in found.items()} == {
        "output_0": [[3, 3], [3, 3]],
        "output_2": [1, 1],
    }


class KeywordOnly(torch.nn.Module):
    """Gives its last argument by name."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, pair, factor, shift):
        return self.module(pair, factor, shift=shift)


def test_no_gradients_are_kept(code, load):
    executor, _ = load(
        code("model.grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled()\nreturn X")
    )
    answer(executor, X=np.zeros((1, 2), np.float32))
    assert executor._computing._model.run.grad == (False, True)


def test_modules_are_in_evaluation_mode(models, load, tmp_path):
    text = "import torch\nmake = lambda: torch.nn.Dropout(1.0)\n"
    (tmp_path / "code.py").write_text(text, encoding="utf-8")
    executor, _ = load({**models.factory("make", *ROW), "factory": "code.py:make"})
    assert answer(executor, X=np.ones((1, 2), np.float32))["Y"].tolist() == [[1, 1]]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_computes_in_the_precision_and_returns_what_is_declared(
    models, load, floats, precision
):
    executor, metadata = load(models.affine(precision=precision))
    inputs = floats(4, 3)
    found = answer(executor, X=inputs)["Y"]
    exact = inputs @ np.arange(6, dtype=np.float32).reshape(3, 2)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.1
    assert metadata.properties["precision"] == precision


def test_autocast_holds_for_programs(models, load, floats):
    executor, _ = load(models.exported_affine(precision="bf16"))
    inputs = floats(4, 3)
    found = answer(executor, X=inputs)["output"]
    exact = inputs @ np.arange(6, dtype=np.float32).reshape(3, 2)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.1


def test_channels_last_changes_no_answer(models, load, floats):
    shapes = [("IMAGE", "FP32", [-1, 3, 5, 6])], [("MEAN", "FP32", [-1, 4])]
    images = floats(3, 3, 5, 6)
    plain, turned = (
        answer(load(models.factory("Convolution", *shapes, channels_last=on))[0], IMAGE=images)[
            "MEAN"
        ]
        for on in (False, True)
    )
    np.testing.assert_allclose(plain, turned, rtol=1e-5, atol=1e-6)
    executor, _ = load(models.factory("Convolution", *shapes, channels_last=True))
    weight = executor._computing._model.run.layers[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_threads_belong_to_the_instance(models, load):
    results = {}

    def serve(count):
        executor, _ = load(models.affine(threads={"intra_op": count}))
        both.wait()
        answer(executor, X=np.zeros((1, 3), np.float32))
        results[count] = torch.get_num_threads()

    both = threading.Barrier(2)
    workers = [threading.Thread(target=serve, args=(count,)) for count in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == {1: 1, 2: 2}


def test_the_caller_of_bad_values_is_told(models, load):
    for options in (models.exported_lookup(), models.lookup()):
        executor, _ = load(options)
        error = failure(executor, IDS=np.array([[1, 77]]))
        assert (error.cause, str(error)) == ("input", "index out of range in self")
    scripted = models.script(models.Lookup(), *lookup_axes())
    executor, _ = load(scripted)
    error = failure(executor, IDS=np.array([[1, 77]]))
    assert (error.cause, str(error)) == ("input", "index out of range in self")


def lookup_axes():
    return [("IDS", "INT64", [-1, -1])], [("EMBEDDED", "FP32", [-1, -1, 2])]


def test_a_length_that_the_program_was_not_exported_for_is_the_callers(models, load):
    executor, _ = load(models.exported_lookup(longest=6))
    error = failure(executor, IDS=np.zeros((2, 7), np.int64))
    assert error.cause == "input"
    assert "of which this is true: IDS.size()[1] <= 6" in str(error)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("raise ValueError('no')", "input"),
        ("return torch.zeros(3).gather(0, torch.tensor([7]))", "input"),
        ("raise KeyError('no')", "unknown"),
        ("return torch.ones(2, 3) @ X", "unknown"),
        ("return torch.empty(1 << 50)", "memory"),
        ("raise MemoryError", "memory"),
        ("raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')", "memory"),
        ("raise torch.AcceleratorError('CUDA error: device-side assert triggered')", "device"),
        ("raise RuntimeError('CUDA error: out of memory')", "memory"),
        ("raise RuntimeError('CUDNN_STATUS_EXECUTION_FAILED')", "device"),
    ],
)
def test_a_failure_has_its_cause_and_the_next_batch_is_answered(code, load, body, cause):
    executor, _ = load(code(f"if X.sum() > 0:\n    {body}\nreturn X + 1"))
    error = failure(executor, X=np.ones((4, 2), np.float32))
    assert error.cause == cause
    assert (executor.healthy() is not None) == (cause == "device")
    assert answer(executor, X=np.zeros((1, 2), np.float32))["Y"].tolist() == [[1, 1]]


def test_a_failure_holds_no_tensor_of_its_batch(code, load):
    executor, _ = load(
        code("model.kept = __import__('weakref').ref(X + 1)\nraise torch.OutOfMemoryError('x')")
    )
    error = failure(executor, X=np.ones((4, 2), np.float32))
    assert error.__cause__ is None
    kept = executor._computing._model.run.kept
    assert isinstance(kept, weakref.ref)
    assert kept() is None


def test_long_errors_become_one_short_line():
    text = (
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously "
        "reported at some other API call, so the stacktrace below might be incorrect.\nFor debugging "
        "consider passing CUDA_LAUNCH_BLOCKING=1"
    )
    assert one_line(RuntimeError(text)) == "CUDA error: device-side assert triggered"
    assert one_line(RuntimeError("\x1b[31mred\x1b[0m")) == "red"
    assert one_line(RuntimeError()) == "RuntimeError"
    assert len(one_line(RuntimeError("x" * 1000))) == MAX_LENGTH
    assert cause_of(RuntimeError("odd")) == "unknown"
    assert is_out_of_memory(RuntimeError("cudaErrorMemoryAllocation: out of memory"))
    assert not is_out_of_memory(ValueError("out of memory"))
