"""How much memory a device has, and whether a model fits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch

from batcher.errors import ModelLoadError, OutOfMemory

_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_GIB: Final = 1024**3


def host_memory() -> int:
    """Bytes of memory that this process may have: the machine's, or the container's if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(_CGROUP_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return total
    return min(total, limit)


def device_memory(device: torch.device) -> tuple[int, int]:
    """Bytes of a GPU's memory: free, and in all."""
    free, total = torch.cuda.mem_get_info(device)
    return free, total


def model_bytes(model: torch.nn.Module) -> int:
    """Bytes of the weights of a module."""
    return tensor_bytes(weights(model))


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors; memory that several share counts once."""
    sizes = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(sizes.values())


def weights(model: torch.nn.Module) -> Iterable[torch.Tensor]:
    """The parameters and buffers of a module."""
    yield from model.parameters()
    yield from model.buffers()


def check_file_fits(path: Path, label: str) -> None:
    """Raise `ModelLoadError` where a file is larger than all the memory that there is."""
    size, room = path.stat().st_size, host_memory()
    if size > room:
        raise ModelLoadError(
            f"{label}: {path} has {in_gib(size)} of weights, and this machine or container has "
            f"{in_gib(room)} of memory"
        )


def check_fits(model: torch.nn.Module, device: torch.device, label: str) -> None:
    """Raise where the weights are larger than a GPU, or, as an `OutOfMemory`, than what is free there."""
    check_room(model_bytes(model), device, label)


def check_room(size: int, device: torch.device, label: str) -> None:
    """Raise where a GPU has less memory than that, or, as an `OutOfMemory`, less that is free."""
    free, total = device_memory(device)
    if size > total:
        raise ModelLoadError(
            f"{label}: the model has {in_gib(size)} of weights, and the device {device} has "
            f"{in_gib(total)} of memory in all"
        )
    if size > free:
        raise OutOfMemory(
            f"{label}: the model has {in_gib(size)} of weights, and the device {device} has "
            f"{in_gib(free)} of memory left of {in_gib(total)}"
        )


def in_gib(size: int) -> str:
    """Bytes as text."""
    return f"{size / _GIB:.2f} GiB"
