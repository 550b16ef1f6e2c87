"""The options of a model, `models[].options` in the configuration."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, StrictBool

from batcher.executor import FilePath, Options, ParameterValue, Size
from batcher_onnxruntime.names import checked

Provider: TypeAlias = Annotated[str, AfterValidator(checked)]
Threads: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=1024)]


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    # pydantic's own minimum length counts valid names only, and reports the others twice.
    if not names:
        raise ValueError("at least one")
    return names


class ThreadOptions(Options):
    """Sizes of the session's thread pools."""

    intra_op: Threads = 0
    """Threads inside one operator; 0 means one for each physical core."""
    inter_op: Threads = 0
    """Operators that run at the same time, if more than 1; 0 means one after the other."""


class MemoryOptions(Options):
    """How much memory ONNX Runtime takes, and how its arenas grow."""

    limit: Size | None = None
    """The most memory of the GPU for the arena of the provider `cuda`, such as `4GiB`; not for what CUDA
    itself and its libraries take."""
    extend: Literal["double", "exact"] = "double"
    """How that arena grows: by twice as much each time, or by what is asked for (`exact`: less memory,
    more allocations)."""
    cpu_arena: StrictBool = True
    """Whether memory of the CPU comes from an arena, which keeps what it once had."""


class OnnxRuntimeOptions(Options):
    """The options of one model."""

    path: FilePath
    """The model file, `.onnx` or `.ort`."""
    providers: Annotated[tuple[Provider, ...], AfterValidator(_some)] = ("cpu",)
    """Execution providers in order of preference: `cpu`, `cuda`, `tensorrt` and so on, or ONNX
    Runtime's full names. What a provider cannot run goes to the next one, and last to the CPU."""
    provider_options: dict[Provider, dict[str, ParameterValue]] = Field(default_factory=dict)
    """Provider -> its own options, as ONNX Runtime names them, such as
    `{cuda: {gpu_mem_limit: 4294967296}}`."""
    allow_fallback: StrictBool = False
    """Serve even if a provider that was asked for is not used; otherwise that is an error."""
    threads: ThreadOptions = ThreadOptions()
    """Sizes of the session's thread pools."""
    spinning: StrictBool = False
    """Whether idle pool threads spin before they sleep. Faster if ONNX Runtime has cores of its own;
    a sidecar shares them."""
    graph_optimization: Literal["none", "basic", "extended", "all"] = "all"
    """How far ONNX Runtime rewrites the graph when it loads it."""
    memory: MemoryOptions = MemoryOptions()
    """Limits and growth of ONNX Runtime's arenas."""
    io_binding: StrictBool | None = None
    """Whether batches run with IO binding, inputs in memory of the device that is kept. By default they do
    with `cuda` and `tensorrt`, and where a model has BF16; on a CPU a plain run is faster."""
    cuda_graphs: StrictBool = False
    """Record one CUDA graph for each batch size (`batching.batch_sizes`) and bucket, and replay it."""
    engine_cache: Annotated[str, Field(min_length=1)] | None = None
    """The folder in which TensorRT keeps its engines and timings, made if it is not there. Without it each
    start builds them again. A relative path starts at the folder of the configuration."""
    session_options: dict[str, ParameterValue] = Field(default_factory=dict)
    """ONNX Runtime's own session options (its configuration entries), such as
    `{session.use_env_allocators: "1"}`."""
