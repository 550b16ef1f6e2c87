"""nvidia-ml-py: whether it is there, and what its errors mean."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Final, TypeAlias

from batcher.errors import describe, on_one_line
from batcher.telemetry.devices.statistics import DeviceState

Nvml: TypeAlias = Any
"""The module `pynvml` of the distribution nvidia-ml-py."""

Handle: TypeAlias = Any
"""What NVML calls a GPU or a MIG instance by."""

HOW_TO_INSTALL: Final = "nvidia-ml-py is not installed: pip install nvidia-ml-py"


class LibraryMissingError(Exception):
    """nvidia-ml-py is not installed."""


def load_nvml() -> Nvml:
    """The module. Raises `LibraryMissingError`."""
    if importlib.util.find_spec("pynvml") is None:
        raise LibraryMissingError(HOW_TO_INSTALL)
    return importlib.import_module("pynvml")


def code_of(nvml: Nvml, error: BaseException) -> int | None:
    """The number of an error of NVML; None for another exception."""
    if isinstance(error, nvml.NVMLError):
        value = getattr(error, "value", None)
        return value if isinstance(value, int) else None
    return None


def is_lost(nvml: Nvml, error: BaseException) -> bool:
    """Whether the error says that the GPU is gone."""
    return bool(code_of(nvml, error) == nvml.NVML_ERROR_GPU_IS_LOST)


def needs_reset(nvml: Nvml, error: BaseException) -> bool:
    """Whether the error says that the GPU has to be reset."""
    return code_of(nvml, error) == getattr(nvml, "NVML_ERROR_RESET_REQUIRED", 16)


def state_of(nvml: Nvml, error: BaseException) -> DeviceState:
    """What an error means for the statistics."""
    code = code_of(nvml, error)
    if code in {nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED}:
        return DeviceState.NO_DRIVER
    if code == nvml.NVML_ERROR_NO_PERMISSION:
        return DeviceState.NO_PERMISSION
    if is_lost(nvml, error) or needs_reset(nvml, error):
        return DeviceState.LOST
    if code in {nvml.NVML_ERROR_NOT_FOUND, getattr(nvml, "NVML_ERROR_GPU_NOT_FOUND", 28)}:
        return DeviceState.NOT_FOUND
    return DeviceState.ERROR


def text_of(nvml: Nvml, error: BaseException) -> str:
    """The error in words."""
    code = code_of(nvml, error)
    if code is None:
        return describe(error)
    hint = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: " (libnvidia-ml.so.1, which comes with the driver)",
        nvml.NVML_ERROR_NO_PERMISSION: " (in a container: NVIDIA_DRIVER_CAPABILITIES with utility)",
    }.get(code, "")
    try:
        return f"NVML: {error}{hint}"
    except Exception:  # noqa: BLE001 - NVML itself has the texts, and may be gone
        return f"NVML: error {code}{hint}"


def as_text(value: object) -> str:
    """A text of NVML, which older versions give as bytes."""
    return on_one_line(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
