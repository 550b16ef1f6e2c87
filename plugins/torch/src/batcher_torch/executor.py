"""Executes batches with a PyTorch model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from batcher.errors import ModelLoadError, OutOfMemory
from batcher.executor import (
    Array,
    Batch,
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    read_options,
)
from batcher_torch.computing import Computing
from batcher_torch.cpu import CpuRunner
from batcher_torch.cuda import CudaRunner, Running
from batcher_torch.devices import find_device, gpu_of
from batcher_torch.gpu import Gpu
from batcher_torch.loading import LoadedModel, load_model
from batcher_torch.messages import cause_of, is_out_of_memory, one_line
from batcher_torch.options import TorchOptions
from batcher_torch.results import Results
from batcher_torch.shapes import Shapes, shapes_in_use, sizes_in_use
from batcher_torch.threads import IntraOp, set_inter_op

T = TypeVar("T")


class TorchExecutor:
    """Executes a program of `torch.export`, a TorchScript file, or what Python code returns.

    On a GPU it has `submit`, `collect` and `allocate` besides: batches are gathered in page-locked
    memory, and one is copied while another computes. A CPU has nothing to gain from them: its
    methods are those of an ordinary executor.
    """

    capabilities = Capabilities(dynamic_axes=True)
    options = TorchOptions

    def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model, and compile and record it for the sizes in use if the options say so.

        Raises `ModelLoadError`, which names the file or option and the reason; `OutOfMemory` where the
        device has no room.
        """
        try:
            return self._load(context)
        except OutOfMemory as error:
            what = str(error)
        # Outside of the handler, where no traceback holds what was loaded: another load needs the room.
        vars(self).clear()
        cuda: Any = torch.cuda
        if cuda.is_initialized():
            cuda.empty_cache()
        raise OutOfMemory(what)

    def _load(self, context: LoadContext) -> ModelMetadata:
        label = f"model {context.model!r}"
        options = read_options(context, TorchOptions)
        device = find_device(context.device, label)
        if options.cuda_graphs and device.type != "cuda":
            raise ModelLoadError(
                f"{label}: option cuda_graphs: got true, and the device is {context.device}; allowed: "
                "on a GPU"
            )
        set_inter_op(options.threads, label)
        threads = IntraOp(options.threads)
        threads.use()
        model = load_model(context, options, device, label)
        sizes = _sizes(context, options, model, label)
        self._broken = ""
        self._computing = Computing(model, options, device)
        outputs = model.signature.outputs
        results = Results(
            outputs,
            model.pick,
            cast=options.precision is not None,
            with_rows=context.max_batch_size > 0,
        )
        if device.type == "cuda":
            self._runner: CpuRunner | CudaRunner = self._on_gpu(device, results, label)
        else:
            self._runner = CpuRunner(self._computing, results, threads, model.run, label)
        shapes = _warm_up_shapes(context, options, model, sizes, label)
        self._warm_up(shapes, options, label)
        return ModelMetadata(
            platform="pytorch",
            inputs=model.signature.inputs,
            outputs=outputs,
            properties=_properties(model, options, device, len(shapes)),
            max_batch_size=model.signature.rows[1] or None,
            batch_sizes=sizes,
            fixed_buckets=bool(shapes),
            gpu=gpu_of(device),
        )

    def execute(self, batch: Batch) -> BatchResult:
        """Execute the batch.

        Raises `ExecutionError`: with cause `input` if the model refuses values or lengths, `memory` if
        there is none for a batch of this size, `device` if the GPU failed.
        """
        runner = self._runner
        if isinstance(runner, CudaRunner):
            return self._guarded(lambda: runner.collect(runner.submit(batch)))
        return self._guarded(lambda: runner.execute(batch))

    def healthy(self) -> str | None:
        """Why the GPU cannot be used any more, since one of its errors; None while it can."""
        return self._broken or None

    def close(self) -> None:
        """Free the model and its memory."""
        if isinstance(self._runner, CudaRunner):
            self._runner.close()
        del self._runner, self._computing

    def _on_gpu(self, device: torch.device, results: Results, label: str) -> CudaRunner:
        runner = CudaRunner(self._computing, results, _gpu(device), label)

        def submit(batch: Batch) -> Running:
            return self._guarded(lambda: runner.submit(batch))

        def collect(running: Running) -> BatchResult:
            return self._guarded(lambda: runner.collect(running))

        def allocate(_name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
            return runner.allocate(shape, dtype)

        self.submit, self.collect, self.allocate = submit, collect, allocate
        return runner

    def _guarded(self, run: Callable[[], T]) -> T:
        """The result of `run`; what it raises becomes an `ExecutionError`."""
        try:
            return run()
        except ExecutionError:
            raise
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            failure = ExecutionError(one_line(error), cause=cause_of(error))
        # Outside of the handler, where no traceback holds the tensors of the batch any more.
        if failure.cause == "device":
            self._broken = f"the device failed: {failure}"
        elif failure.cause == "memory" and isinstance(self._runner, CudaRunner):
            self._runner.free_unused()
        raise failure

    def _warm_up(self, shapes: list[Shapes], options: TorchOptions, label: str) -> None:
        """Compile and record the model for these shapes."""
        for each in shapes:
            key = "cuda_graphs" if not options.compile else "compile"
            try:
                self._runner.compile_for(each)
                if options.cuda_graphs and isinstance(self._runner, CudaRunner):
                    key = "cuda_graphs"
                    self._runner.record(each)
            except Exception as error:
                what = f"{label}: option {key}: {_text(each)}: {one_line(error)}"
                if is_out_of_memory(error):
                    raise OutOfMemory(what) from error
                raise ModelLoadError(what) from error


def _gpu(device: torch.device) -> Gpu:
    return Gpu(device)


def _sizes(
    context: LoadContext, options: TorchOptions, model: LoadedModel, label: str
) -> tuple[int, ...]:
    """The only sizes of batches that the model takes; () for any.

    Raises `ModelLoadError` where the configuration says sizes that it cannot take.
    """
    fewest, most = model.signature.rows
    wrong = [size for size in context.batch_sizes if size < fewest or (most and size > most)]
    if wrong:
        allowed = f"{fewest} or more" if not most else f"{fewest} to {most}"
        allowed = f"exactly {most}" if fewest == most else allowed
        raise ModelLoadError(
            f"{label}: batching.batch_sizes has {', '.join(map(str, wrong))}, and the program was exported "
            f"for batches of {allowed} rows"
        )
    if context.batch_sizes:
        return context.batch_sizes
    if most and fewest == most:
        return (most,)
    if options.compile or options.cuda_graphs:
        return tuple(size for size in sizes_in_use(context, most) if size >= fewest)
    largest = min(context.max_batch_size, most or context.max_batch_size)
    return tuple(range(fewest, largest + 1)) if fewest > 1 else ()


def _warm_up_shapes(
    context: LoadContext,
    options: TorchOptions,
    model: LoadedModel,
    sizes: tuple[int, ...],
    label: str,
) -> list[Shapes]:
    if not (options.compile or options.cuda_graphs):
        return []
    which = "compile" if options.compile else "cuda_graphs"
    where = f"{label}: option {which}"
    shapes = shapes_in_use(context, model.signature.inputs, sizes, where)
    if options.compile:
        _allow_compiling()
    return shapes


def _allow_compiling() -> None:
    """Let PyTorch keep compiled code for any number of shapes: `MOST_SHAPES` bounds them here.

    Above its own limit, which is 8 for all modules of a class together, it would silently run models
    that are not compiled.
    """
    config: Any = torch._dynamo.config  # noqa: SLF001 - where the setting is
    config.recompile_limit = config.accumulated_recompile_limit = sys.maxsize


def _properties(
    model: LoadedModel, options: TorchOptions, device: torch.device, shapes: int
) -> dict[str, str]:
    found = {
        "runtime": f"torch {torch.__version__}",
        "source": model.source,
        "device": str(device),
        "precision": options.precision or "as the model",
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    if options.compile:
        found["compiled_shapes"] = str(shapes)
    if options.cuda_graphs:
        found["cuda_graphs"] = str(shapes)
    return found


def _text(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
