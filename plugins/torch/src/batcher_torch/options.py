"""The options of a model, `models[].options` in the configuration."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, StrictBool, model_validator

from batcher.executor import DTYPES, FilePath, Options

_FACTORY: Final = re.compile(r"(?P<place>[^:]+):(?P<names>[^\W\d]\w*(\.[^\W\d]\w*)*)")
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

DATATYPES: Final = tuple(name for name in DTYPES if name != "BYTES")
"""The datatypes that a tensor of PyTorch can have."""

Threads: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=1024)]
Axis: TypeAlias = (
    Annotated[int, Field(strict=True, ge=-1)] | Annotated[str, Field(strict=True, min_length=1)]
)


def _factory(text: str) -> str:
    match = _FACTORY.fullmatch(text)
    if match is None or not (match["place"].endswith(".py") or _MODULE.fullmatch(match["place"])):
        raise ValueError("module:name or file.py:name, where name is a function or a class")
    return text


def _datatype(name: str) -> str:
    if name not in DATATYPES:
        raise ValueError(f"one of {', '.join(DATATYPES)}")
    return name


class ThreadOptions(Options):
    """Sizes of PyTorch's thread pools on the CPU."""

    intra_op: Threads = 0
    """Threads inside one operator; 0 leaves it to PyTorch: one for each physical core."""
    inter_op: Threads = 0
    """Threads for parts of a TorchScript file that may run side by side; 0 leaves it to PyTorch. All
    models of a process share these."""


class TensorOption(Options):
    """One input or output, as clients see it in the model's metadata."""

    name: Annotated[str, Field(strict=True, min_length=1)]
    """Its name."""
    datatype: Annotated[str, Field(strict=True), AfterValidator(_datatype)]
    """Its datatype in the Open Inference Protocol."""
    shape: tuple[Axis, ...]
    """Its axes, the batch axis first: a length, -1 for any length, or a name. Axes of one name are
    equally long."""


class TorchOptions(Options):
    """The options of one model: a file (`path`), or Python code that makes it (`factory`)."""

    path: FilePath | None = None
    """A program of `torch.export` (`.pt2`), or a TorchScript file (`.pt`)."""
    factory: Annotated[str, Field(strict=True), AfterValidator(_factory)] | None = None
    """What makes the model: `module:name` or `file.py:name`, a function or class that is called with
    `args` and returns a module, or any callable that takes and returns tensors."""
    args: dict[str, Any] = Field(default_factory=dict)
    """The arguments of `factory`, by name."""
    weights: FilePath | None = None
    """A state dict for the module that `factory` returns: `.safetensors`, or a file of `torch.save`,
    of which only tensors are read."""
    python_path: tuple[FilePath, ...] = ()
    """Folders in which modules are looked for, after those of Python itself."""
    allow_pickle: StrictBool = False
    """Load a file although it runs Python code of its author's choice (a pickle)."""
    inputs: tuple[TensorOption, ...] = ()
    """The inputs. A program of `torch.export` knows its own."""
    outputs: tuple[TensorOption, ...] = ()
    """The outputs, in the order in which the model returns them. A program of `torch.export` knows
    its own."""
    precision: Literal["bf16", "fp16"] | None = None
    """Compute in this precision where PyTorch holds it safe (autocast). null computes as the model says."""
    channels_last: StrictBool = False
    """Keep weights and inputs of four axes in the order NHWC in memory: faster for convolutions."""
    compile: StrictBool = False
    """Compile the model when it loads (`torch.compile`), for exactly the sizes and buckets in use."""
    compile_mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"
    """How much time the compiler may take: the second tries many kernels, which takes minutes."""
    cuda_graphs: StrictBool = False
    """Record the model as CUDA graphs when it loads, one for each size and bucket in use."""
    threads: ThreadOptions = ThreadOptions()
    """Sizes of PyTorch's thread pools on the CPU."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if (self.path is None) == (self.factory is None):
            got = "neither" if self.path is None else "both"
            raise ValueError(f"one of path and factory, and not {got}")
        if self.path is not None:
            alone = [key for key in ("args", "weights", "python_path") if getattr(self, key)]
            if alone:
                raise ValueError(f"{', '.join(alone)} together with factory, and not with path")
        elif self.allow_pickle and self.weights is None:
            raise ValueError("allow_pickle together with path or weights")
        if self.compile_mode != "default" and not self.compile:
            raise ValueError("compile_mode together with compile: true")
        return self
