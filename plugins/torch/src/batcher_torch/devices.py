"""Which device a model runs on, by the name that the configuration gives it."""

from __future__ import annotations

import re
from typing import Any, Final

import torch

from batcher.errors import ModelLoadError

_CUDA: Final = re.compile(r"(?:cuda|gpu)(?:[:_-]?(?P<number>\d+))?", re.IGNORECASE)
_CPU: Final = re.compile(r"cpu(?:[:_-]?\d+)?", re.IGNORECASE)


def find_device(name: str, label: str) -> torch.device:
    """The device: `cpu`, or `cuda:N` (also written `gpuN`). Raises `ModelLoadError` if it is not there."""
    if _CPU.fullmatch(name):
        return torch.device("cpu")
    match = _CUDA.fullmatch(name)
    if match is None:
        raise ModelLoadError(
            f"{label}: the device is {name!r}; allowed for the executor torch: cpu, or cuda:0 and so on"
        )
    number = int(match["number"] or 0)
    problem = missing_cuda(number)
    if problem:
        raise ModelLoadError(f"{label}: the device {name} cannot be used: {problem}")
    return torch.device("cuda", number)


def missing_cuda(number: int) -> str:
    """Why there is no such GPU; empty if there is one."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this build of PyTorch ({torch.__version__}) is for CPUs only"
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or count == 0:
        return f"PyTorch {torch.__version__} finds no GPU, or no driver for it"
    if number >= count:
        found = f"{count} GPU{'s' if count > 1 else ''}"
        return f"PyTorch finds {found}, cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}"
    return ""


def gpu_of(device: torch.device) -> int | str | None:
    """What the server knows the GPU by: its UUID, or CUDA's number where PyTorch does not tell that.

    None for the CPU, and for GPUs that are not NVIDIA's.
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    properties: Any = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)  # PyTorch 2.4 and later
    return device.index if uuid is None else str(uuid)
