"""What execution providers for GPUs are told, and which batch runs as which CUDA graph.

Everything here is a function of the options, the context and the model's inputs, so that it can be tested
where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batcher.executor import LoadContext, TensorSpec
from batcher_onnxruntime.names import full
from batcher_onnxruntime.options import OnnxRuntimeOptions

CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
GPU_PROVIDERS: Final = frozenset({CUDA, TENSORRT})

GRAPH_ID: Final = "gpu_graph_id"
"""The run option that says which CUDA graph a run records or replays; -1 is none."""


@dataclass(frozen=True, slots=True)
class InputRange:
    """The shapes of one input, from the smallest batch and bucket to the largest, rows first."""

    name: str
    least: tuple[int, ...]
    most: tuple[int, ...]


def batch_sizes(context: LoadContext, fixed_rows: int | None) -> tuple[int, ...]:
    """The only sizes of batches, ascending; () for any."""
    if fixed_rows is not None:
        return (fixed_rows,)
    return context.batch_sizes


def input_ranges(
    inputs: Sequence[TensorSpec], context: LoadContext, sizes: Sequence[int]
) -> list[InputRange] | str:
    """The range of each input's shapes, or why they are not known: an axis that nothing bounds."""
    found = []
    most_rows = max(context.max_batch_size, 1)
    for spec in inputs:
        least, most = [], []
        for axis, length in enumerate(spec.shape):
            if length >= 0:
                lengths: Sequence[int] = (length,)
            elif axis == 0 and spec.batched and context.max_batch_size:
                lengths = sizes or (1, most_rows)
            else:
                lengths = context.buckets.get(spec.name, {}).get(axis, ())
            if not lengths:
                return f"axis {axis} of input {spec.name!r} may have any length"
            least.append(min(lengths))
            most.append(max(lengths))
        found.append(InputRange(spec.name, tuple(least), tuple(most)))
    return found


def profile_options(ranges: Sequence[InputRange]) -> dict[str, str]:
    """TensorRT's options for one profile that holds these shapes and is fastest for the largest."""
    least = ",".join(f"{each.name}:{_by_x(each.least)}" for each in ranges)
    most = ",".join(f"{each.name}:{_by_x(each.most)}" for each in ranges)
    return {
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": most,
        "trt_profile_max_shapes": most,
    }


def gpu_options(options: OnnxRuntimeOptions, name: str, base_dir: Path) -> dict[str, str]:
    """What the options mean for a provider; `provider_options` goes before it."""
    given: dict[str, str] = {}
    if name not in GPU_PROVIDERS:
        return given
    if name == CUDA:
        if options.memory.limit is not None:
            given["gpu_mem_limit"] = str(options.memory.limit)
        if options.memory.extend == "exact":
            given["arena_extend_strategy"] = "kSameAsRequested"
        if options.cuda_graphs:
            given["enable_cuda_graph"] = "1"
    elif options.engine_cache is not None:
        folder = str(base_dir / options.engine_cache)
        given |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }
    return given


def graph_problem(
    options: OnnxRuntimeOptions,
    context: LoadContext,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    fixed_rows: int | None,
) -> str:
    """Why batches cannot run as CUDA graphs; empty if they can."""
    names = {full(each) for each in options.providers}
    if TENSORRT in names:
        return "option cuda_graphs: got true with tensorrt; allowed: with cuda alone"
    if CUDA not in names:
        return "option cuda_graphs: got true without cuda in option providers"
    if options.io_binding is False:
        return "option cuda_graphs: got true with io_binding: false, which it needs"
    if not context.max_batch_size:
        return "option cuda_graphs: got true for a model without a batch axis, whose shapes vary"
    return _shape_problem(context, inputs, outputs, fixed_rows)


def _shape_problem(
    context: LoadContext,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    fixed_rows: int | None,
) -> str:
    """Why the shapes of batches are not known beforehand; empty if they are."""
    without = [each.name for each in (*inputs, *outputs) if each.datatype in {"BF16", "BYTES"}]
    if without:
        return (
            f"option cuda_graphs: got true for a model with bfloat16 or text ({', '.join(without)})"
        )
    sizes = batch_sizes(context, fixed_rows)
    if not sizes:
        return (
            "option cuda_graphs: a graph has one size, so it needs the sizes that batches will have:"
            " set batching.batch_sizes"
        )
    ranges = input_ranges(inputs, context, sizes)
    if isinstance(ranges, str):
        return f"option cuda_graphs: a graph has one shape, and {ranges}: set padding for it"
    known = {name for spec in inputs for name in spec.dims if name}
    for spec in outputs:
        for axis, length in enumerate(spec.shape[1:], 1):
            name = spec.dims[axis] if spec.dims else None
            if length < 0 and name not in known:
                return (
                    f"option cuda_graphs: axis {axis} of output {spec.name!r} has no length that the inputs"
                    " tell"
                )
    return ""


def output_shape(
    spec: TensorSpec,
    rows: int,
    inputs: Sequence[TensorSpec],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[int, ...] | None:
    """The shape of an output of a batch whose inputs have these shapes; None where that is not known."""
    lengths = {
        name: length
        for each in inputs
        if each.dims and each.name in shapes
        for name, length in zip(each.dims, shapes[each.name], strict=True)
        if name
    }
    found: list[int] = []
    for axis, length in enumerate(spec.shape):
        if axis == 0 and spec.batched:
            found.append(rows)
        elif length >= 0:
            found.append(length)
        else:
            name = spec.dims[axis] if spec.dims else None
            if name is None or name not in lengths:
                return None
            found.append(lengths[name])
    return tuple(found)


def _by_x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
