"""Reads a model file and compiles it for a device, or says why not."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import openvino as ov

from batcher.errors import ModelLoadError, OutOfMemory
from batcher_openvino.messages import is_out_of_memory, one_line
from batcher_openvino.options import OpenVinoOptions

_ENDINGS: Final = (".xml", ".onnx")
_PRECISIONS: Final = {None: ov.Type.f32, "bf16": ov.Type.bf16, "fp16": ov.Type.f16}
_OF_OPTIONS: Final = {
    "PERFORMANCE_HINT": "performance_hint",
    "NUM_STREAMS": "streams",
    "INFERENCE_NUM_THREADS": "threads",
    "INFERENCE_PRECISION_HINT": "precision",
    "CACHE_DIR": "cache_dir",
}
"""The properties that options of their own set."""


def read_model(core: ov.Core, path: Path, label: str) -> Any:
    """The model of a file. Raises `ModelLoadError`, which names the file and the reason."""
    _check_file(path, label)
    if path.suffix == ".xml" and not path.with_suffix(".bin").exists():
        raise ModelLoadError(
            f"{label}: option path: {path} needs the file {path.with_suffix('.bin').name} beside it"
        )
    try:
        return core.read_model(os.fspath(path))
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{label}: no memory to read {path}: {one_line(error)}") from error
        raise ModelLoadError(
            f"{label}: the file {path} could not be read by openvino {ov.get_version()}: it is truncated, "
            f"damaged, or no model: {one_line(error)}"
        ) from error


def _check_file(path: Path, label: str) -> None:
    if path.suffix not in _ENDINGS:
        raise ModelLoadError(f"{label}: option path: got {path}; allowed: a file .xml or .onnx")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelLoadError(f"{label}: option path: {path} is not a file")
        with path.open("rb"):
            pass
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ModelLoadError(
            f"{label}: option path: cannot read the model file {path}: {reason}"
        ) from None
    if status.st_size == 0:
        raise ModelLoadError(f"{label}: option path: the model file {path} is empty")


def properties_of(options: OpenVinoOptions, label: str) -> dict[str, Any]:
    """The properties that the options set. Raises `ModelLoadError` for one that is set twice."""
    for name in options.properties:
        if name in _OF_OPTIONS:
            raise ModelLoadError(
                f"{label}: option properties: got {name}; allowed: the option {_OF_OPTIONS[name]}"
            )
    found: dict[str, Any] = {
        "PERFORMANCE_HINT": options.performance_hint.upper(),
        "INFERENCE_PRECISION_HINT": _PRECISIONS[options.precision],
    }
    if options.streams:
        found["NUM_STREAMS"] = str(options.streams)
    if options.threads:
        found["INFERENCE_NUM_THREADS"] = options.threads
    if options.cache_dir is not None:
        found["CACHE_DIR"] = os.fspath(options.cache_dir)
    return found | options.properties


def compile_model(
    core: ov.Core, model: Any, device: str, properties: Mapping[str, Any], label: str
) -> Any:
    """The model, compiled. Raises `ModelLoadError`, which names the option that was refused.

    It is an `OutOfMemory` where the device has no room for the model.
    """
    try:
        return core.compile_model(model, device, dict(properties))
    except Exception as error:
        text = one_line(error)
        if is_out_of_memory(error):
            raise OutOfMemory(f"{label}: {device} has no room for the model: {text}") from error
        named = next((name for name in properties if name in str(error)), None)
        if named is None:
            raise ModelLoadError(f"{label}: could not be compiled for {device}: {text}") from error
        option = _OF_OPTIONS.get(named, "properties")
        raise ModelLoadError(
            f"{label}: option {option}: {device} refuses {named}: {text}"
        ) from error


def reshaped(model: Any, shapes: Sequence[tuple[int, ...]], label: str) -> Any:
    """A copy of the model with fixed shapes. Raises `ModelLoadError` where it cannot have them."""
    copy = model.clone()
    try:
        copy.reshape({place: list(shape) for place, shape in enumerate(shapes)})
    except Exception as error:
        shown = ", ".join(str(list(shape)) for shape in shapes)
        raise ModelLoadError(
            f"{label}: option static_shapes: the model cannot have inputs of {shown}: {one_line(error)}"
        ) from error
    return copy


def check_precision(compiled: Any, options: OpenVinoOptions, device: str, label: str) -> str:
    """What the model computes in, in words. Raises `ModelLoadError` if it was asked for another.

    A device that cannot compute in what it was asked for silently takes another.
    """
    wanted = _PRECISIONS[options.precision]
    try:
        got = compiled.get_property("INFERENCE_PRECISION_HINT")
    except RuntimeError:
        return wanted.get_type_name()  # a device that chooses among others does not say
    if got != wanted and options.precision is not None:
        raise ModelLoadError(
            f"{label}: option precision: got {options.precision}, and {device} would compute in "
            f"{got.get_type_name()}"
        )
    return str(got.get_type_name())
