"""The options of a model, `models[].options` in the configuration."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StrictBool

from batcher.executor import FilePath, Options, ParameterValue

Count: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=1024)]


class OpenVinoOptions(Options):
    """The options of one model."""

    path: FilePath
    """The model file: OpenVINO's `.xml` (its `.bin` lies beside it), or `.onnx`."""
    performance_hint: Literal["latency", "throughput"] = "latency"
    """What OpenVINO arranges its threads and streams for: one batch after the other, or two at once."""
    streams: Count = 0
    """Batches that the device computes at the same time; 0 leaves it to the hint."""
    threads: Count = 0
    """Threads of a CPU; 0 leaves it to OpenVINO."""
    precision: Literal["bf16", "fp16"] | None = None
    """What floating-point numbers are computed in; `null` for 32 bits. OpenVINO alone would choose
    the fastest that the device has."""
    cache_dir: FilePath | None = None
    """A folder for compiled models, so that the next load is short. It is made if it is missing."""
    static_shapes: StrictBool = False
    """Compile the model for each batch size and bucket in use, and no other: for devices that are
    faster with shapes they know, or take no others."""
    properties: dict[str, ParameterValue] = Field(default_factory=dict)
    """Other properties of OpenVINO by their names, such as `{ENABLE_HYPER_THREADING: false}`."""
