"""What a model file is, and whether loading it would run a pickle.

A pickle runs what its author wrote into it. PyTorch's own loaders fall back to pickles in several
places, in programs of `torch.export` too, so files are looked through before they are loaded.
"""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final

import torch

from batcher.errors import ModelLoadError, describe

_PICKLE_OPCODE: Final = b"\x80"
_MAX_CONFIG: Final = 64 * 1024 * 1024
"""Bytes of an archive's list of weights: some hundred bytes for each tensor."""


class Kind(Enum):
    """What a file is."""

    EXPORTED = "a program of torch.export"
    SCRIPT = "a TorchScript file"
    PICKLE = "a pickle"
    COMPILED = "a package compiled ahead of time"
    OTHER = "neither a program of torch.export nor a TorchScript file"


def check_readable(path: Path, where: str) -> None:
    """Raise `ModelLoadError` unless `path` is a readable file that is not empty."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelLoadError(f"{where}: {path} is not a file")
        with path.open("rb"):
            pass
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ModelLoadError(f"{where}: cannot read the file {path}: {reason}") from None
    if status.st_size == 0:
        raise ModelLoadError(f"{where}: the file {path} is empty")


def kind_of(path: Path) -> Kind:
    """What a file is, by what it contains and not by its name."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return Kind.PICKLE if file.read(1) == _PICKLE_OPCODE else Kind.OTHER
    with zipfile.ZipFile(path) as archive:
        names = {_inner(name) for name in archive.namelist()} | set(archive.namelist())
    if any(name.startswith("data/aotinductor/") for name in names):
        return Kind.COMPILED
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return Kind.EXPORTED
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return Kind.SCRIPT
    return Kind.PICKLE if "data.pkl" in names else Kind.OTHER


def pickled_part(path: Path) -> str:
    """The first part of an exported program that only a pickle can load; empty if there is none.

    Weights and constants say it of themselves, and of what is saved as tensors PyTorch is asked
    whether its restricted loader takes it.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inner = _inner(name)
            if inner.endswith("_config.json"):
                pickled = next(_objects(archive, name), "")
                if pickled:
                    return pickled
            elif _may_be_pickle(inner) and not _only_tensors(archive.read(name)):
                return inner
    return ""


def _inner(name: str) -> str:
    """A member's name without the folder that PyTorch puts around an archive."""
    return name.partition("/")[2]


def _may_be_pickle(name: str) -> bool:
    return name.endswith((".pt", ".pth", ".pkl"))


def _objects(archive: zipfile.ZipFile, name: str) -> Iterator[str]:
    """The members in a list of weights or constants that are Python objects, and no tensors."""
    if archive.getinfo(name).file_size > _MAX_CONFIG:
        yield _inner(name)
        return
    folder = name.rpartition("/")[0]
    for entry in json.loads(archive.read(name)).get("config", {}).values():
        member = f"{folder}/{entry.get('path_name', '')}"
        if not entry.get("use_pickle"):
            continue
        if member not in archive.namelist() or not _only_tensors(archive.read(member)):
            yield _inner(member)


def _only_tensors(data: bytes) -> bool:
    if not data:
        return True
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever it is, it is not plain tensors
        return False
    return True


def read_state_dict(path: Path, where: str, *, allow_pickle: bool) -> dict[str, Any]:
    """The tensors of a file by name. Raises `ModelLoadError`, which names the file and the reason."""
    check_readable(path, where)
    try:
        if path.suffix == ".safetensors":
            found = _safetensors(path, where)
        else:
            found = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except ModelLoadError:
        raise
    except Exception as error:
        if not allow_pickle and "weights_only" in str(error):
            raise ModelLoadError(
                f"{where}: {path} has more in it than tensors, and loading it would run Python code "
                "that is in it (a pickle): save module.state_dict() instead, or set option "
                "allow_pickle to true if you trust the file"
            ) from None
        raise ModelLoadError(f"{where}: {path} cannot be loaded: {describe(error)}") from error
    if not isinstance(found, dict) or not all(torch.is_tensor(each) for each in found.values()):
        raise ModelLoadError(
            f"{where}: {path} is no state dict: allowed: a file of names and their tensors, as "
            "module.state_dict() gives them"
        )
    return found


def _safetensors(path: Path, where: str) -> Any:
    try:
        from safetensors.torch import load_file  # noqa: PLC0415 - an extra
    except ImportError:
        raise ModelLoadError(
            f"{where}: {path} needs the package safetensors: pip install safetensors"
        ) from None
    return load_file(path)
