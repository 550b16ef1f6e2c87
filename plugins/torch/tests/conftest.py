"""Small models, made on the spot. Nothing here imports torch before a test asks for it."""

import textwrap

import numpy as np
import pytest

from batcher.executor import LoadContext

FACTORIES = """
import torch


class Affine(torch.nn.Module):
    # Y = X W + b, with W = 0..5 as [3, 2].

    def __init__(self, bias=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2))
        self.bias = torch.nn.Parameter(torch.full((2,), float(bias)))

    def forward(self, X):
        return X @ self.weight + self.bias


class Several(torch.nn.Module):
    def forward(self, A, B, C):
        return {"SUM": A + B, "SIZE": C.abs()}


class Lookup(torch.nn.Module):
    # EMBEDDED [rows, seq, 2] = the rows of a table of five that IDS [rows, seq] name.

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(5, 2)
        self.table.weight.data = torch.arange(10.0).reshape(5, 2)

    def forward(self, IDS):
        return self.table(IDS)


class Biased(torch.nn.Module):
    def forward(self, X, b):
        return X + b


class Convolution(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True)
        )

    def forward(self, IMAGE):
        return self.layers(IMAGE).mean((2, 3))


def identity(name="X"):
    return lambda X: X


def pair(X, Y):
    return X + Y, X * Y
"""
"""`factories.py` in the folder of the configuration."""

AXES = {
    "affine": ([("X", "FP32", [-1, 3])], [("Y", "FP32", [-1, 2])]),
    "lookup": ([("IDS", "INT64", ["rows", "seq"])], [("EMBEDDED", "FP32", ["rows", "seq", 2])]),
}


def tensors(*specs):
    """Specs as the options have them, of `(name, datatype, shape)`."""
    return [{"name": n, "datatype": d, "shape": list(s)} for n, d, s in specs]


class Models:
    """Writes model files into a folder; every method returns the options that load one."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "factories.py").write_text(textwrap.dedent(FACTORIES), encoding="utf-8")

    def __getattr__(self, name):
        """A class of `factories.py`."""
        from batcher_torch.factories import _run_file

        return getattr(_run_file(self.folder / "factories.py"), name)

    def factory(self, name, inputs, outputs, **rest):
        return {
            "factory": f"factories.py:{name}",
            "inputs": tensors(*inputs),
            "outputs": tensors(*outputs),
            **rest,
        }

    def affine(self, **rest):
        return self.factory("Affine", *AXES["affine"], **rest)

    def lookup(self, **rest):
        return self.factory("Lookup", *AXES["lookup"], **rest)

    def export(self, module, args, shapes=None, *, name="model", **rest):
        """A program of `torch.export`; `shapes` as its `dynamic_shapes`."""
        import torch

        program = torch.export.export(module.eval(), args, dynamic_shapes=shapes)
        path = self.folder / f"{name}.pt2"
        torch.export.save(program, path)
        return {"path": path.name, **rest}

    def exported_affine(self, **rest):
        import torch

        rows = torch.export.Dim("rows")
        return self.export(self.Affine(), (torch.zeros(3, 3),), ({0: rows},), **rest)

    def exported_lookup(self, *, longest=None, **rest):
        import torch

        axes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("seq", max=longest)}
        return self.export(self.Lookup(), (torch.zeros(3, 4, dtype=torch.int64),), (axes,), **rest)

    def script(self, module, inputs, outputs, *, name="model", **rest):
        import torch

        path = self.folder / f"{name}.pt"
        torch.jit.script(module.eval()).save(str(path))
        return {
            "path": path.name,
            "inputs": tensors(*inputs),
            "outputs": tensors(*outputs),
            **rest,
        }


@pytest.fixture
def models(tmp_path):
    return Models(tmp_path)


@pytest.fixture(scope="session")
def models_in():
    """Makes `models` for a folder of another scope."""
    return Models


@pytest.fixture
def load(tmp_path):
    """Loads a model: `load(options, max_batch_size=8, ...)` -> executor, metadata."""
    loaded = []

    def load(options, *, max_batch_size=8, device="cpu", batched=None, **rest):
        from batcher_torch import TorchExecutor

        executor = TorchExecutor()
        context = LoadContext(
            "m", "1", 0, device, max_batch_size, options, tmp_path, batched or {}, **rest
        )
        metadata = executor.load(context)
        loaded.append(executor)
        return executor, metadata

    yield load
    for executor in loaded:
        executor.close()


@pytest.fixture
def floats():
    return lambda *shape: np.random.default_rng(1).standard_normal(shape, np.float32)
