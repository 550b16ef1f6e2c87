"""The GPUs that NVML has, and which of them a name means.

A name is a number, a UUID or a PCI bus id. A number in the configuration counts as nvidia-smi does; one that an
executor gives counts as CUDA does in its process: `visible_gpu`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

GpuName: TypeAlias = int | str

_PCI: Final = re.compile(
    r"(?:(?P<domain>[0-9a-f]{4}|[0-9a-f]{8}):)?(?P<bus>[0-9a-f]{2}):(?P<device>[0-9a-f]{2})(?:\.0)?"
)
_LEGACY_MIG: Final = re.compile(r"mig-gpu-(?P<gpu>[0-9a-f-]+)/(?P<gi>\d+)/(?P<ci>\d+)")


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A part of a GPU that works as one of its own."""

    uuid: str
    gpu_instance: int
    compute_instance: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the machine, or of the container."""

    index: int
    """Its number in NVML and nvidia-smi, which count by PCI bus id."""
    uuid: str = ""
    pci: str = ""
    product: str = ""
    split: bool = False
    """Whether MIG is on: only its instances can be used."""
    instances: tuple[MigInstance, ...] = ()
    problem: str = ""
    """Why NVML cannot open it; empty if it can. Then nothing else is known."""


@dataclass(frozen=True, slots=True)
class Found:
    """A GPU, or one MIG instance of it."""

    gpu: Gpu
    instance: MigInstance | None = None

    @property
    def uuid(self) -> str:
        """Of the instance, if it is one."""
        return self.gpu.uuid if self.instance is None else self.instance.uuid


class NotFound(Exception):
    """No GPU has the name, or it cannot be told which one; the message says why."""


def configured_gpu(name: GpuName, gpus: Sequence[Gpu]) -> Found:
    """The GPU that `devices.*.gpu` names. Raises `NotFound`."""
    if isinstance(name, int):
        for gpu in gpus:
            if gpu.index == name:
                return _usable(gpu)
        raise NotFound(f"there is no GPU {name}; NVML has {_listed(gpus)}")
    return _named(name, gpus)


def cuda_gpu(name: GpuName, gpus: Sequence[Gpu], environ: Mapping[str, str]) -> Found:
    """The GPU that an executor says it uses: a number is CUDA's. Raises `NotFound`."""
    if isinstance(name, bool) or not isinstance(name, (int, str)):
        raise NotFound(f"its executor says gpu={name!r}; allowed: a number, a UUID or a PCI bus id")
    text = environ.get("CUDA_VISIBLE_DEVICES")
    visible = _unrestricted(gpus, environ) if text is None else _visible(text, gpus, environ)
    if isinstance(name, str):
        return _part(_named(name, gpus), visible)
    if 0 <= name < len(visible):
        found = visible[name]
        if isinstance(found, NotFound):
            raise found
        return found
    said = "is not set" if text is None else f"is {text!r}"
    raise NotFound(
        f"CUDA has no GPU {name} where CUDA_VISIBLE_DEVICES {said}; NVML has {_listed(gpus)}"
    )


def _part(found: Found, visible: Sequence[Found | NotFound]) -> Found:
    """The instance of a split GPU that CUDA uses: some of its calls give the UUID of the GPU itself."""
    if found.instance is not None or not found.gpu.split:
        return found
    of_gpu = [each for each in visible if isinstance(each, Found) and each.gpu == found.gpu]
    return next((each for each in of_gpu if each.instance is not None), found)


def _visible(text: str, gpus: Sequence[Gpu], environ: Mapping[str, str]) -> list[Found | NotFound]:
    """What CUDA numbers, in its order. It stops at the first entry that it does not know."""
    unrestricted = _unrestricted(gpus, environ)
    found: list[Found | NotFound] = []
    for entry in text.split(","):
        word = entry.strip()
        if word.isascii() and word.isdigit():
            if int(word) >= len(unrestricted):
                break
            found.append(unrestricted[int(word)])
            continue
        if not word.lower().startswith(("gpu-", "mig-")):
            break
        try:
            found.append(_named(word, gpus, shortened=True))
        except NotFound:
            break
    uuids = [each.uuid for each in found if isinstance(each, Found)]
    # CUDA takes none at all where one is there twice.
    return [] if len(set(uuids)) < len(uuids) else found


def _unrestricted(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> list[Found | NotFound]:
    """All GPUs in the order of CUDA: by bus id, or the fastest first, which only CUDA knows."""
    by_bus = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    usable = [gpu for gpu in gpus if not gpu.problem]
    if by_bus or len({gpu.product for gpu in usable}) <= 1:
        return [_or_why(gpu) for gpu in usable]
    unknown = NotFound(
        "CUDA numbers GPUs of different kinds by their speed, which NVML does not know: set"
        " CUDA_DEVICE_ORDER=PCI_BUS_ID, or the GPU in devices"
    )
    return [unknown for _ in usable]


def _or_why(gpu: Gpu) -> Found | NotFound:
    if not gpu.split:
        return Found(gpu)
    # CUDA uses the first instance of a GPU that is split.
    if gpu.instances:
        return Found(gpu, gpu.instances[0])
    return NotFound(f"MIG is on for GPU {gpu.index} ({gpu.uuid}), and it has no instance")


def _named(name: str, gpus: Sequence[Gpu], *, shortened: bool = False) -> Found:
    """The GPU with this UUID or PCI bus id; with `shortened`, the only one whose UUID begins so."""
    wanted = name.strip().lower()
    bus = _PCI.fullmatch(wanted)
    if bus is not None:
        for gpu in gpus:
            if gpu.pci and _bus(gpu.pci) == _bus(wanted):
                return _usable(gpu)
        raise NotFound(f"there is no GPU {name}; NVML has {_listed(gpus)}")
    legacy = _LEGACY_MIG.fullmatch(wanted)
    if legacy is not None:
        place = int(legacy["gi"]), int(legacy["ci"])
        for gpu in gpus:
            for each in gpu.instances:
                if bare(gpu.uuid) == legacy["gpu"] and place == (
                    each.gpu_instance,
                    each.compute_instance,
                ):
                    return Found(gpu, each)
        raise NotFound(f"there is no MIG instance {name}; NVML has {_listed(gpus)}")
    everything = [
        *(Found(gpu) for gpu in gpus if gpu.uuid),
        *(Found(gpu, each) for gpu in gpus for each in gpu.instances),
    ]
    matches = [each for each in everything if _is(each.uuid, wanted, shortened=shortened)]
    if len(matches) == 1 and wanted:
        return matches[0]
    raise NotFound(
        f"{len(matches)} GPUs have UUIDs that begin with {name}"
        if matches
        else f"there is no GPU {name}; NVML has {_listed(gpus)}"
    )


def _usable(gpu: Gpu) -> Found:
    if gpu.problem:
        raise NotFound(f"GPU {gpu.index} cannot be opened: {gpu.problem}")
    return Found(gpu)


def bare(uuid: str) -> str:
    """A UUID without `GPU-` or `MIG-`, in lower case: CUDA leaves these out."""
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def _is(uuid: str, wanted: str, *, shortened: bool) -> bool:
    if shortened:
        return uuid.lower().startswith(wanted)
    prefixed = wanted.startswith(("gpu-", "mig-"))
    return uuid.lower() == wanted if prefixed else bare(uuid) == wanted


def _bus(pci: str) -> tuple[int, int, int] | None:
    match = _PCI.fullmatch(pci.lower())
    if match is None:
        return None
    return int(match["domain"] or "0", 16), int(match["bus"], 16), int(match["device"], 16)


def _listed(gpus: Sequence[Gpu]) -> str:
    """The GPUs for a message."""
    if not gpus:
        return "none"
    shown = [
        f"{gpu.index} ({gpu.problem or gpu.uuid}"
        f"{''.join(f', {each.uuid}' for each in gpu.instances)})"
        for gpu in gpus[:_MOST_LISTED]
    ]
    more = len(gpus) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


_MOST_LISTED: Final = 4
"""GPUs that a message names."""
