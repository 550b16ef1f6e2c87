"""Devices: as the configuration names them, and as OpenVINO does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from batcher.errors import ModelLoadError

_ONE: Final = re.compile(r"(CPU|GPU|NPU)(?:[.:](\d+))?")
_SEVERAL: Final = re.compile(r"(AUTO|HETERO|MULTI)(?::(.+))?")
_ALLOWED: Final = "cpu, gpu, gpu:0, npu, auto, or one that chooses, such as auto:gpu,cpu"


def openvino_device(device: str, available: Sequence[str], label: str) -> str:
    """OpenVINO's name of a device: `GPU.1` for `gpu:1`.

    Raises `ModelLoadError` for another name, and for a device that is not among the `available`.
    """
    name = device.upper()
    several = _SEVERAL.fullmatch(name)
    if several is None:
        return _one(name, device, available, label)
    if several[2] is None:
        return several[1]
    parts = [_one(part.strip(), device, available, label) for part in several[2].split(",")]
    return f"{several[1]}:{','.join(parts)}"


def _one(name: str, device: str, available: Sequence[str], label: str) -> str:
    match = _ONE.fullmatch(name)
    if match is None:
        raise ModelLoadError(f"{label}: device: got {device}; allowed: {_ALLOWED}")
    kind, number = match.groups()
    wanted = kind if number is None else f"{kind}.{number}"
    there = {each.upper() for each in available}
    # One GPU alone is called GPU, and is number 0 as well.
    known = there | {each.partition(".")[0] for each in there}
    known |= {f"{each}.0" for each in there if each in {"GPU", "NPU"}}
    if wanted not in known:
        raise ModelLoadError(
            f"{label}: device: got {device}, and OpenVINO finds {', '.join(sorted(there)) or 'none'};"
            " a GPU or NPU needs its driver"
        )
    return wanted
