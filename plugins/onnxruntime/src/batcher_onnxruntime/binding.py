"""Runs a session with IO binding: inputs in memory of the device that is kept, outputs where they are wanted.

What batches of one shape need is made once (`_Bound`): device memory for each input, the binding and, for
CUDA graphs, memory for the outputs at a fixed address and a graph of its own. Two of them let one batch be
copied in while another computes. Those of shapes that were not used lately are dropped.

BF16 has no numpy dtype: its arrays are the raw bits (uint16), and pass by address and element type.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from batcher.executor import DTYPES, Array, TensorSpec
from batcher_onnxruntime.devices import GRAPH_ID, output_shape

BFLOAT16: Final = 16
"""The element type of bfloat16 in ONNX's `TensorProto`."""

MOST_SHAPES: Final = 64
"""Shapes of batches whose memory on the device is kept, the last used ones. With fewer than are in use each
batch allocates anew; more costs device memory. Batch sizes and buckets are rarely so many. CUDA graphs stay:
they are as many as batch sizes and buckets."""

Key = tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]


@dataclass(slots=True)
class _Bound:
    """The memory and the binding of batches of one shape; one batch uses it at a time."""

    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)
    run_options: Any = None


@dataclass(slots=True)
class Copied:
    """A batch whose inputs are on the device."""

    key: Key
    bound: _Bound
    names: Sequence[str]
    keep: list[Any]
    """What must live until it has run."""


class BoundSession:
    """A session whose batches are bound; `device` is that of the session, `cpu` or `cuda`.

    `copy_in` and `run` may be called on two threads, each on one.
    """

    def __init__(
        self,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        device: str = "cpu",
        device_id: int = 0,
        graphs: bool = False,
        log_level: int = 4,
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._datatypes = {spec.name: spec.datatype for spec in (*inputs, *outputs)}
        self._outputs = {spec.name: spec for spec in outputs}
        self._device, self._device_id = device, device_id
        self._graphs = count(1) if graphs else None
        self._log_level = log_level
        self._free: OrderedDict[Key, list[_Bound]] = OrderedDict()

    def copy_in(self, feeds: Mapping[str, Array], names: Sequence[str]) -> Copied:
        """Copy a batch's inputs to memory of the device; returns when the arrays may change again.

        BF16 stays where it is, and is copied by the run. `names` are the outputs that are wanted.
        """
        if self._graphs is not None:
            # One graph for a shape, whatever is wanted.
            names = tuple(self._outputs)
        key: Key = (tuple(feeds[name].shape for name in sorted(feeds)), (*sorted(feeds), *names))
        free = self._free.get(key)
        bound = free.pop() if free else self._make(feeds, names)
        keep: list[Any] = []
        for name, array in feeds.items():
            if self._datatypes[name] == "BF16":
                value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
                bound.binding.bind_ortvalue_input(name, value)
                keep += [value, array]
            else:
                bound.inputs[name].update_inplace(np.ascontiguousarray(array))
        return Copied(key, bound, names, keep)

    def run(self, copied: Copied) -> dict[str, Array]:
        """Run the batch and return copies of its outputs, in memory of the host."""
        bound = copied.bound
        try:
            self._session.run_with_iobinding(bound.binding, bound.run_options)
        except BaseException:
            if self._graphs is not None:
                # Its graph stays with its memory; another one would take more.
                self._give_back(copied)
            raise
        if bound.outputs:
            found = {name: self._own_copy(value) for name, value in bound.outputs.items()}
        else:
            values = bound.binding.get_outputs()
            found = {
                name: self._host_copy(name, value)
                for name, value in zip(copied.names, values, strict=True)
            }
            # The next run allocates outputs of its own: these are handed out, and may have another shape.
            self._bind_outputs(bound, copied.names)
        self._give_back(copied)
        return found

    def free_unused(self) -> None:
        """Drop the memory that no batch uses; not that of graphs, which are recorded with it."""
        if self._graphs is None:
            self._free.clear()

    def clear(self) -> None:
        """Drop all memory that is kept, at the end."""
        self._free.clear()

    def _give_back(self, copied: Copied) -> None:
        free = self._free.setdefault(copied.key, [])
        free.append(copied.bound)
        self._free.move_to_end(copied.key)
        while len(self._free) > MOST_SHAPES and self._graphs is None:
            self._free.popitem(last=False)

    def _make(self, feeds: Mapping[str, Array], names: Sequence[str]) -> _Bound:
        binding = self._session.io_binding()
        bound = _Bound(binding, {})
        for name, array in feeds.items():
            if self._datatypes[name] != "BF16":
                value = self._memory(array.shape, array.dtype)
                bound.inputs[name] = value
                binding.bind_ortvalue_input(name, value)
        options = ort.RunOptions()
        options.log_severity_level = self._log_level
        bound.run_options = options
        if self._graphs is not None:
            shapes = {name: array.shape for name, array in feeds.items()}
            self._fix_outputs(bound, names, shapes)
        if not bound.outputs:
            self._bind_outputs(bound, names)
        return bound

    def _fix_outputs(
        self, bound: _Bound, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Give the outputs memory at fixed addresses, and the batch a graph of its own."""
        assert self._graphs is not None  # noqa: S101 - asked for graphs only
        rows = next(shapes[spec.name][0] for spec in self._inputs if spec.batched)
        for name in names:
            spec = self._outputs[name]
            shape = output_shape(spec, rows, self._inputs, shapes)
            assert shape is not None, name  # noqa: S101 - `graph_problem` has refused others
            value = self._memory(shape, DTYPES[spec.datatype])
            bound.outputs[name] = value
            bound.binding.bind_ortvalue_output(name, value)
        bound.run_options.add_run_config_entry(GRAPH_ID, str(next(self._graphs)))

    def _memory(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype.type, self._device, self._device_id
        )

    def _bind_outputs(self, bound: _Bound, names: Sequence[str]) -> None:
        bound.binding.clear_binding_outputs()
        for name in names:
            bound.binding.bind_output(name, "cpu")

    def _own_copy(self, value: Any) -> Array:
        """A copy of memory that the next batch uses again."""
        array = value.numpy()
        # On the CPU that may be the memory itself.
        return np.array(array) if self._device == "cpu" else np.asarray(array)

    def _host_copy(self, name: str, value: Any) -> Array:
        if self._datatypes[name] != "BF16":
            return np.asarray(value.numpy())
        shape = tuple(value.shape())
        bits = np.empty(shape, np.uint16)
        if bits.size:
            ctypes.memmove(bits.ctypes.data, value.data_ptr(), bits.nbytes)
        return bits
