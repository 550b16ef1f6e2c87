"""One scan of a model repository: what it holds and asks for. Blocks: call it on a thread."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from batcher.config import ModelOverrides
from batcher.config.section import Name
from batcher.errors import ConfigError, describe, encodable
from batcher.lifecycle.repository.described import (
    CONFIG_FILE,
    OVERRIDES_FILE,
    Described,
    ModelScan,
    describe_folder,
    described,
    files_beside,
    one_line,
    scan_versions,
    versions_in,
)
from batcher.lifecycle.repository.files import MAX_MODELS, Folder, list_folder
from batcher.triton_models import TritonConfig

_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan found. `problem` is not empty if the directory itself could not be read."""

    models: Mapping[str, ModelScan] = field(default_factory=dict)
    problem: str = ""


class Directory:
    """Scans a model repository. What has not changed since the last scan is not read again."""

    def __init__(self, path: Path, defaults: ModelOverrides) -> None:
        self.path = path
        self._defaults = defaults
        self._scans: dict[str, ModelScan] = {}
        self._described: dict[str, tuple[Any, Described]] = {}
        self._device: int | None = None

    def scan(self) -> Scan:
        """Scan every model. Never raises for what is there."""
        try:
            device = os.stat(self.path).st_dev  # noqa: PTH116 - one call, no object
            names = list_folder(self.path).folders
        except OSError as error:
            return Scan(problem=f"{self.path} cannot be read: {error.strerror}")
        if not names and self._scans and device != self._device:
            # What remains of a file system that is gone is the folder below it.
            return Scan(problem=f"{self.path} is empty, and on another file system than before")
        self._device = device
        models = {encodable(name): self.scan_model(name) for name in names[:MAX_MODELS]}
        for name in map(encodable, names[MAX_MODELS:]):
            why = f"the directory has more than {MAX_MODELS} models"
            models[name] = ModelScan(name, problems=(("", why),))
        for name in self._scans.keys() - models.keys():
            del self._scans[name]
            self._described.pop(name, None)
        return Scan(models)

    def scan_model(self, name: str) -> ModelScan:
        """Scan one model. Never raises for what is there, nor if there is nothing."""
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            allowed = error.errors()[0]["ctx"]["error"]
            return ModelScan(encodable(name), problems=(("", f"its name is not {allowed}"),))
        try:
            scan = self._scan_model(name)
        except OSError as error:
            why = f"{error.filename or self.path / name} cannot be read: {error.strerror}"
            return ModelScan(name, problems=(("", encodable(why)),), readable=False)
        except Exception as error:  # noqa: BLE001 - one model must not hide the others
            why = f"internal error: {describe(error)}"
            return ModelScan(name, problems=(("", why),), readable=False)
        self._scans[name] = scan
        return scan

    def has(self, name: str) -> bool:
        """Whether the model has a folder."""
        try:
            _NAME.validate_python(name)
        except ValidationError:
            return False
        return (self.path / name).is_dir()

    def overridden(
        self, name: str, config: TritonConfig | None, versions: Path | None
    ) -> ModelScan:
        """Scan a model with another configuration, or with versions that lie elsewhere.

        None: its own. Raises `ConfigError` and OSError.
        """
        own = self.path / name
        folder = list_folder(own) if own.is_dir() else Folder((), ())
        found = self._read(name, own, folder) if config is None else None
        if found is None:
            overrides = self._read(name, own, folder).overrides if versions is None else {}
            found = described(name, config, overrides)
        present = versions_in(folder if versions is None else list_folder(versions))
        return scan_versions(name, versions or own, found, present, self._defaults)

    def _scan_model(self, name: str) -> ModelScan:
        path = self.path / name
        folder = list_folder(path)
        try:
            found = self._read(name, path, folder)
        except ConfigError as error:
            problems = (("", one_line(error)),)
            return ModelScan(name, folder.files, versions_in(folder), problems=problems)
        beside, known = files_beside(path, folder), self._scans.get(name)
        present = versions_in(folder)
        return scan_versions(name, path, found, present, self._defaults, beside, known)

    def _read(self, name: str, path: Path, folder: Folder) -> Described:
        """What the model's files say, read again only if one of them has changed. Raises `ConfigError`."""
        key = folder.stamp(CONFIG_FILE), folder.stamp(OVERRIDES_FILE)
        known = self._described.get(name)
        if known is not None and known[0] == key:
            return known[1]
        found = describe_folder(name, path, folder)
        self._described[name] = key, found
        return found
