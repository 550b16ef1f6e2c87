"""What an executor class declares, what `load` is told, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from batcher.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an executor class can do. A class attribute of the executor: `capabilities`."""

    dynamic_rows: bool = True
    """Whether `execute` takes any number of rows from 1 to `max_batch_size`. If False, every batch
    has exactly `max_batch_size` rows, as with `ModelMetadata(batch_sizes=(max_batch_size,))`."""
    dynamic_axes: bool = False
    """Whether it can load models whose inputs have variable axes after the batch axis."""
    max_in_flight: int = 1
    """The most batches that one object can execute at the same time. Only an `AsyncExecutor` can have
    more than 1. The configuration (`models[].max_in_flight`) chooses a number up to this."""
    raw: bool = False
    """Whether `execute` takes the inputs as they are on the wire (`Batch.raw`), and no arrays: for a
    runtime to which batches are sent on. Outputs are arrays all the same."""


@dataclass(frozen=True, slots=True)
class LoadContext:
    """The argument of `load`: the model, the instance and the device."""

    model: str
    """The model's name, for messages."""
    version: str
    """The model's version, for messages."""
    instance: int
    """Number of this instance among the model's instances, from 0."""
    device: str
    """The device to load on, as the configuration names it: `cpu`, `cuda:0` or your own words."""
    max_batch_size: int
    """The most rows of a batch. 0 for a model without a batch axis: then each batch is one request,
    whose arrays arrive as they were sent."""
    options: Mapping[str, Any]
    """`models[].options` of the configuration, as parsed YAML. Validate them with `read_options`."""
    base_dir: Path = Path()
    """The folder of the configuration file, where relative paths in `options` start."""
    batched: Mapping[str, bool] = field(default_factory=dict)
    """Input -> whether axis 0 is the batch axis, for inputs that the configuration (`inputs`) names."""
    sequence_slots: int = 0
    """Under `sequence.strategy: slot`, how many sequences the object keeps state for at once; else 0."""
    batch_sizes: tuple[int, ...] = ()
    """What the configuration says (`batching.batch_sizes`) of the only sizes that batches will have,
    ascending; () if it says nothing. A runtime that compiles for sizes compiles exactly these."""
    buckets: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)
    """Input -> axis -> the lengths that the axis will have, ascending, for the axes that the
    configuration pads (`padding`); other variable axes may have any length."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What `load` returns: the inputs and outputs of the model.

    Every shape starts with the batch axis, -1: `(-1, 384)` is `[batch, 384]`. Exceptions: inputs
    with `batched=False`, and models without a batch axis (`LoadContext.max_batch_size` is 0).
    """

    platform: str
    """The runtime's name, which clients see in the model's metadata, such as `onnxruntime`."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    """Facts for logs and people, such as the execution provider in use."""
    parameters: tuple[str, ...] = ()
    """Names of the request parameters that `execute` reads. Only requests with equal values of
    these share a batch. `Batch.parameters` has no others."""
    metadata: tuple[str, ...] = ()
    """Names of the caller's metadata (gRPC headers, in lower case) that `execute` sends on. Only
    requests with equal values of these share a batch, except for the trace context
    (`TRACE_METADATA`), of which a batch has its first request's, or its own while requests are traced.
    `Batch.metadata` has no others, and no other metadata of a caller leaves the server."""
    max_batch_size: int | None = None
    """The most rows that the backend takes in one batch; None if it does not say. It is the model's
    `batching.max_batch_size` where the configuration has none; a load fails where that has more."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """The batch sizes that the backend executes best. They are the model's where its policy takes
    preferred sizes and the configuration has none."""
    batch_sizes: tuple[int, ...] = ()
    """The only sizes of batches that can be executed, ascending; () for any. A batch with other rows
    is filled up to the next size with copies of its last row, and the outputs of those copies are
    dropped. The largest is the most rows that a batch can have."""
    fixed_buckets: bool = False
    """Whether the lengths in `LoadContext.buckets` are all that can be executed. A change of `padding`
    then loads the model again; else it changes buckets while the object is in use."""
    gpu: int | str | None = None
    """The NVIDIA GPU that the object uses, whose statistics are then exported, and whose failure makes the
    instance unready. A number counts as CUDA does in this process (`CUDA_VISIBLE_DEVICES` and
    `CUDA_DEVICE_ORDER` of its environment); a text is a UUID (`GPU-...`, `MIG-...`, or without these
    beginnings) or a PCI bus id. None if it uses none, or does not know. `devices.*.gpu` goes before it."""


TRACE_METADATA: Final = frozenset({"traceparent", "tracestate", "baggage", "grpc-trace-bin"})
"""Metadata of the trace context (W3C Trace Context, W3C Baggage, and gRPC's own). Requests that differ in
these share batches."""
