"""What is loaded, what is refused, and with which words."""

import pickle
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: make runtimes runs it")

import torch

from batcher.errors import ModelLoadError, OutOfMemory
from batcher.executor import LoadContext, TensorSpec
from batcher_torch import TorchExecutor, devices, memory

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

ONE = ([("X", "FP32", [-1, 3])], [("Y", "FP32", [-1, 2])])


@pytest.fixture
def refusal(load):
    def refusal(options, kind=ModelLoadError, **rest):
        with pytest.raises(ModelLoadError) as caught:
            load(options, **rest)
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refusal


def test_a_program_says_what_it_takes_and_returns(models, load):
    _, metadata = load(models.exported_lookup())
    (ids,), (output,) = metadata.inputs, metadata.outputs
    assert (ids.name, ids.datatype, ids.shape) == ("IDS", "INT64", (-1, -1))
    assert (output.name, output.datatype, output.shape) == ("output", "FP32", (-1, -1, 2))
    assert ids.dims[0] == output.dims[0] != ids.dims[1] == output.dims[1]
    assert metadata.platform == "pytorch"
    assert metadata.properties["source"] == "torch.export"


def test_outputs_of_a_program_are_named_by_what_it_returns(models, load):
    rows = {0: torch.export.Dim("rows")}
    numbers, square = torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2, 2)
    options = models.export(models.Several(), (square, square, numbers), (rows, rows, rows))
    _, metadata = load(options)
    assert [(s.name, s.datatype) for s in metadata.outputs] == [("SUM", "FP32"), ("SIZE", "INT64")]


def test_options_rename_what_a_program_takes_and_returns(models, load, floats):
    given = [{"name": "A", "datatype": "FP32", "shape": ["n", 3]}]
    returned = [{"name": "B", "datatype": "FP32", "shape": ["n", 2]}]
    executor, metadata = load(models.exported_affine(inputs=given, outputs=returned))
    assert metadata.inputs == (TensorSpec("A", "FP32", (-1, 3), dims=("n", None)),)
    from batcher.executor import Batch

    assert executor.execute(Batch({"A": floats(2, 3)}, 2)).outputs["B"].shape == (2, 2)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([("B", "FP64", [-1, 2])], "'B' is FP64 [-1, 2], and in the program it is FP32 [-1, 2]"),
        ([("B", "FP32", [-1, 3])], "'B' is FP32 [-1, 3], and in the program it is FP32 [-1, 2]"),
        ([("B", "FP32", [-1, 2])] * 2, "got 2; the program has 1: output"),
    ],
)
def test_options_that_contradict_a_program_are_refused(models, refusal, outputs, said):
    declared = [{"name": n, "datatype": d, "shape": s} for n, d, s in outputs]
    message = refusal(models.exported_affine(outputs=declared))
    assert f"option outputs: {said}" in message


def test_a_program_of_fixed_rows_takes_batches_of_that_size(models, load, refusal):
    options = models.export(models.Affine(), (torch.zeros(4, 3),))
    _, metadata = load(options)
    assert metadata.inputs[0].shape == (-1, 3)
    assert metadata.batch_sizes == (4,)
    message = refusal(options, batch_sizes=(2, 4))
    assert "batching.batch_sizes has 2" in message
    assert "exported for batches of exactly 4 rows" in message


def test_the_rows_that_a_program_was_exported_for_are_its_limits(models, load, refusal):
    rows = torch.export.Dim("rows", min=2, max=6)
    options = models.export(models.Affine(), (torch.zeros(3, 3),), ({0: rows},))
    _, metadata = load(options, max_batch_size=6)
    assert metadata.batch_sizes == (2, 3, 4, 5, 6)
    assert metadata.max_batch_size == 6
    assert "batching.batch_sizes has 1, 8" in refusal(options, batch_sizes=(1, 4, 8))


def test_an_input_whose_first_axis_is_fixed_is_refused_unless_it_is_declared(models, load, refusal):
    shapes = ({0: torch.export.Dim("rows")}, None)
    options = models.export(models.Biased(), (torch.zeros(3, 4), torch.zeros(4)), shapes)
    message = refusal(options)
    assert "'X' varies, 'b' is fixed to 4" in message
    assert "{input: ..., batched: false}" in message
    _, metadata = load(options, batched={"b": False})
    assert metadata.inputs[1] == TensorSpec("b", "FP32", (4,), batched=False)
    _, metadata = load(options, max_batch_size=0)
    assert [spec.shape for spec in metadata.inputs] == [(-1, 4), (4,)]


def test_an_input_that_all_rows_share_may_have_another_name(models, load):
    shapes = ({0: torch.export.Dim("rows")}, None)
    given = [
        {"name": "A", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "shared", "datatype": "FP32", "shape": [4]},
    ]
    example = (torch.zeros(3, 4), torch.zeros(4))
    options = models.export(models.Biased(), example, shapes, inputs=given)
    _, metadata = load(options, batched={"shared": False})
    assert metadata.inputs[1] == TensorSpec("shared", "FP32", (4,), batched=False)


def test_what_did_not_fit_is_let_go(models, tmp_path):
    text = (
        "import torch, weakref\n"
        "class Large(torch.nn.Module):\n"
        "    made = []\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.made.append(weakref.ref(self))\n"
        "    def _apply(self, *args, **kwargs):\n"
        "        raise torch.OutOfMemoryError('CUDA out of memory.')\n"
    )
    (tmp_path / "code.py").write_text(text, encoding="utf-8")
    options = {**models.affine(), "factory": "code.py:Large"}
    executor = TorchExecutor()
    with pytest.raises(OutOfMemory, match="CUDA out of memory") as caught:
        executor.load(LoadContext("m", "1", 0, "cpu", 8, options, tmp_path))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    code = [
        module for name, module in sys.modules.items() if name.startswith("_batcher_torch_code")
    ]
    made = [module.Large.made for module in code if hasattr(module, "Large")]
    assert [each() for found in made for each in found] == [None]


def test_an_output_without_rows_is_refused(models, refusal):
    class Total(torch.nn.Module):
        def forward(self, x):
            return x.sum(0)

    shapes = ({0: torch.export.Dim("rows")},)
    message = refusal(models.export(Total(), (torch.zeros(3, 4),), shapes))
    assert "output 'output' has shape [4]; its first axis must be the batch axis" in message


def test_a_type_without_a_datatype_is_refused(models, refusal):
    class Complex(torch.nn.Module):
        def forward(self, x):
            return torch.complex(x, x)

    shapes = ({0: torch.export.Dim("rows")},)
    assert "output 'output' is of type torch.complex64" in refusal(
        models.export(Complex(), (torch.zeros(3, 4),), shapes)
    )


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_refused_with_the_remedy(models, refusal, tmp_path):
    torch.save(models.Affine(), tmp_path / "model.pt")
    message = refusal({"path": "model.pt"})
    assert "is a pickle, and loading it would run Python code" in message
    assert "torch.export.save" in message
    assert "allow_pickle" in message


@pytest.mark.parametrize("name", ["model.pt", "model.pt2", "model.pth"])
@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_no_pickle_is_run(tmp_path, refusal, name, save):
    save(Evil(), tmp_path / name)
    assert "is a pickle" in refusal({"path": name})


@pytest.mark.parametrize("member", ["data/sample_inputs/model.pt", "data/weights/model.pt"])
def test_no_pickle_inside_of_a_program_is_run(models, tmp_path, refusal, member):
    options = models.exported_affine()
    replaced = rewritten(tmp_path / options["path"], {member: pickle.dumps(Evil())})
    message = refusal({"path": replaced.name})
    assert f"{member} in {replaced} is a pickle" in message


def test_no_weight_of_a_program_that_is_a_pickle_is_run(models, tmp_path, refusal):
    options = models.exported_affine()
    config = "data/weights/model_weights_config.json"
    said = b'{"config": {"w": {"path_name": "weight_0", "is_param": true, "use_pickle": true}}}'
    evil = {config: said, "data/weights/weight_0": pickle.dumps(Evil())}
    replaced = rewritten(tmp_path / options["path"], evil)
    assert "data/weights/weight_0" in refusal({"path": replaced.name})
    lost = rewritten(tmp_path / options["path"], {config: said.replace(b"weight_0", b"../x")})
    assert "is a pickle" in refusal({"path": lost.name})


def rewritten(path, members):
    """A copy of an archive with other contents of some members."""
    copy = path.with_name("rewritten.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        folder = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            if name.partition("/")[2] not in members:
                new.writestr(name, old.read(name))
        for name, data in members.items():
            new.writestr(f"{folder}/{name}", data)
    return copy


def test_pickles_that_are_allowed_are_loaded(models, load, refusal, tmp_path):
    given, returned = models.affine()["inputs"], models.affine()["outputs"]
    options = {"path": "model.pt", "inputs": given, "outputs": returned, "allow_pickle": True}
    torch.save(models.Affine(), tmp_path / "model.pt")
    _, metadata = load(options)
    assert metadata.properties["source"] == "pickle"
    torch.save(models.Affine().state_dict(), tmp_path / "model.pt")
    assert "belongs in option weights, beside a factory" in refusal(options)


def test_weights_are_read_from_either_format(models, load, tmp_path, floats):
    save_file = pytest.importorskip("safetensors.torch").save_file
    from batcher.executor import Batch

    state = models.Affine(bias=7).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        executor, _ = load(models.affine(weights=name))
        outputs = executor.execute(Batch({"X": np.zeros((1, 3), np.float32)}, 1)).outputs
        assert outputs["Y"].tolist() == [[7, 7]]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"weight": torch.zeros(3, 2)}, 'Missing key(s) in state_dict: "bias"'),
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, "size mismatch for weight"),
        ([1, 2], "is no state dict"),
        ({"weight": 1}, "is no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(models, refusal, tmp_path, state, said):
    torch.save(state, tmp_path / "w.pt")
    message = refusal(models.affine(weights="w.pt"))
    assert "option weights" in message
    assert said in message


def test_weights_that_are_a_pickle_are_refused(models, refusal, load, tmp_path):
    torch.save({"weight": Evil()}, tmp_path / "w.pt")
    assert "more in it than tensors" in refusal(models.affine(weights="w.pt"))
    torch.save(models.Affine(), tmp_path / "w.pt")
    assert "more in it than tensors" in refusal(models.affine(weights="w.pt"))
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 20)
    assert "cannot be loaded" in refusal(models.affine(weights="w.safetensors"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise OSError('no disk')", "cannot be imported: OSError: no disk"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("def make(): raise KeyError('layers')", "failed: KeyError: 'layers'"),
        ("def make(): raise SystemExit(3)", "failed: SystemExit: 3"),
        ("def make(): return 7", "returned an object of type int"),
        ("async def make(): pass", "is a coroutine function"),
        ("make = 3", "is of type int; allowed: a function or a class"),
        ("def mak(): pass", "code.py has no 'make'"),
        ("def make(a): pass", "missing 1 required positional argument: 'a'"),
        ("import torch\ndef make(): torch.empty(1 << 50)", "can't allocate memory"),
    ],
)
def test_a_factory_that_fails_is_named_with_the_reason(tmp_path, models, refusal, text, said):
    (tmp_path / "code.py").write_text(text, encoding="utf-8")
    options = {**models.affine(), "factory": "code.py:make"}
    kind = OutOfMemory if "memory" in said else ModelLoadError
    message = refusal(options, kind)
    assert "option factory: code.py:make" in message
    assert said in message


def test_a_module_is_found_in_the_folders_of_python_path(tmp_path, models, load, refusal):
    (tmp_path / "code").mkdir()
    (tmp_path / "factories.py").rename(tmp_path / "code" / "found_in_a_folder.py")
    options = {**models.affine(), "factory": "found_in_a_folder:Affine"}
    assert "belongs in option python_path" in refusal(options)
    load({**options, "python_path": ["code"]})
    assert "cannot be imported: FileNotFoundError" in refusal(models.affine())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["X", "Z"], "got X, Z; the model takes X, Y"),
        (["X"], "the model takes X, Y and needs Y"),
        (["Z"], "got Z; the model needs X, Y"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused(models, refusal, names, said):
    (models.folder / "code.py").write_text("def make(): return lambda X, Y: X", encoding="utf-8")
    given = [(name, "FP32", [-1]) for name in names]
    options = models.factory("make", given, [("O", "FP32", [-1])])
    assert said in refusal({**options, "factory": "code.py:make"})


@pytest.mark.parametrize(
    ("shape", "said"),
    [([3], "the batch axis first"), ([-1, 0], "lengths from 1, -1, or names")],
)
def test_declared_shapes_are_checked(models, refusal, shape, said):
    options = models.factory("Affine", [("X", "FP32", shape)], ONE[1])
    assert said in refusal(options)
    twice = models.factory("Affine", ONE[0] * 2, ONE[1])
    assert "'X' is there twice" in refusal(twice)


def test_damaged_and_missing_files_are_named(models, refusal, tmp_path):
    options = models.exported_affine()
    data = (tmp_path / options["path"]).read_bytes()
    (tmp_path / "half.pt2").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.pt2").write_bytes(b"")
    (tmp_path / "text.pt2").write_bytes(b"hello")
    (tmp_path / "folder.pt2").mkdir()
    for name, said in {
        "half.pt2": "neither a program of torch.export nor a TorchScript file",
        "text.pt2": "or it is damaged",
        "empty.pt2": "is empty",
        "folder.pt2": "is not a file",
        "gone.pt2": "no such file or directory",
    }.items():
        message = refusal({"path": name})
        assert name in message
        assert said in message
    broken = rewritten(tmp_path / options["path"], {"models/model.json": b"{}"})
    assert "could not be loaded" in refusal({"path": broken.name})


def test_a_package_that_was_compiled_ahead_of_time_is_refused(tmp_path, refusal):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/aotinductor/model/x.so", b"")
    assert "belongs to one device" in refusal({"path": "m.pt2"})


def test_nothing_is_printed_of_what_fails(models, refusal, tmp_path, capfd):
    broken = rewritten(tmp_path / models.exported_affine()["path"], {"models/model.json": b"{}"})
    capfd.readouterr()
    refusal({"path": broken.name})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:0", "the device cuda:0 cannot be used"),
        ("tpu", "allowed for the executor torch: cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(models, refusal, device, said, monkeypatch):
    monkeypatch.setattr(devices, "missing_cuda", lambda number: "PyTorch finds no GPU")
    assert said in refusal(models.affine(), device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_said_to_be_missing_where_there_is_none(models, refusal):
    message = refusal(models.affine(), device="gpu1")
    assert "the device gpu1 cannot be used" in message


def test_which_gpus_there_are_is_said(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, said in {
        0: "finds no GPU",
        1: "1 GPU, cuda:0",
        2: "2 GPUs, cuda:0 to cuda:1",
    }.items():
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert said in devices.missing_cuda(2)
    assert not devices.missing_cuda(1)


def test_a_model_that_is_larger_than_the_device_is_refused(models, monkeypatch):
    model, gpu = models.Affine(), torch.device("cuda", 0)
    size = memory.model_bytes(model)
    assert size == (6 + 2) * 4
    monkeypatch.setattr(memory, "device_memory", lambda device: (10, 20))
    with pytest.raises(ModelLoadError, match="of memory in all") as caught:
        memory.check_fits(model, gpu, "model 'm'")
    assert type(caught.value) is ModelLoadError
    monkeypatch.setattr(memory, "device_memory", lambda device: (10, 2 * size))
    with pytest.raises(OutOfMemory, match="of memory left"):
        memory.check_fits(model, gpu, "model 'm'")
    monkeypatch.setattr(memory, "device_memory", lambda device: (size, size))
    memory.check_fits(model, gpu, "model 'm'")


def test_weights_that_are_larger_than_the_machine_are_refused(models, refusal, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 100)
    assert "this machine or container has" in refusal(models.exported_affine())


def test_shared_weights_count_once():
    layer = torch.nn.Linear(2, 2, bias=False)
    assert memory.model_bytes(torch.nn.Sequential(layer, layer)) == 16


def test_the_pool_of_the_process_has_one_size(models, load, refusal, monkeypatch):
    def refuse(count):
        raise RuntimeError("Error: cannot set number of interop threads after parallel work")

    size = torch.get_num_interop_threads()
    monkeypatch.setattr(torch, "set_num_interop_threads", refuse)
    load(models.affine(threads={"inter_op": size}))
    message = refusal(models.affine(threads={"inter_op": size + 1}))
    assert f"threads.inter_op: got {size + 1}, and this process has a pool of {size}" in message
    assert "isolation: process" in message


def test_programs_that_load_at_the_same_time_do_not_disturb_each_other(models, tmp_path):
    options = models.exported_affine()

    def load(_):
        executor = TorchExecutor()
        executor.load(LoadContext("m", "1", 0, "cpu", 8, options, tmp_path))
        executor.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(load, range(8)))


@pytest.mark.parametrize(
    ("cuda", "properties", "told"),
    [
        ("12.6", SimpleNamespace(uuid="ffc79498-8ff3-c2dc-3b0d-fafd804516ae"), "ffc79498-8ff3-c2dc-3b0d-fafd804516ae"),
        ("12.6", SimpleNamespace(), 1),
        (None, SimpleNamespace(uuid="ffc79498"), None),
    ],
    ids=["by its UUID", "by its number with an older PyTorch", "not NVIDIA's"],
)  # fmt: skip
def test_which_gpu_it_is_is_told(monkeypatch, cuda, properties, told):
    monkeypatch.setattr(devices.torch.version, "cuda", cuda)
    monkeypatch.setattr(devices.torch.cuda, "get_device_properties", lambda device: properties)
    assert devices.gpu_of(devices.torch.device("cuda", 1)) == told
    assert devices.gpu_of(devices.torch.device("cpu")) is None
