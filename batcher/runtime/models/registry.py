"""Finds a served model by name and version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batcher import triton
from batcher.errors import (
    UnknownModel,
    shown,
)
from batcher.runtime.models.model import ServedModel


class ModelRegistry:
    """The configured models, found by name and version. Iterates in the order of the configuration."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {(m.name, m.version): m for m in models}
        self._versions: dict[str, list[ServedModel]] = {}
        for model in models:
            self._versions.setdefault(model.name, []).append(model)
        for versions in self._versions.values():
            versions.sort(key=lambda m: int(m.version), reverse=True)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def find(self, name: str, version: str = "") -> ServedModel:
        """The model of that name and version.

        Without a version: the newest one that is ready, else the newest. Raises `UnknownModel`,
        which lists the known names or versions.
        """
        if version:
            model = self._models.get((name, version))
            if model is not None:
                return model
        versions = self._versions.get(name)
        if versions is None:
            raise UnknownModel(
                f"unknown model {shown(name)}; known models: {', '.join(self._versions)}",
                triton=triton.unknown_model(name),
            )
        if version:
            known = ", ".join(m.version for m in versions)
            raise UnknownModel(
                f"{name}: unknown version {shown(version)}; known versions: {known}",
                triton=triton.unknown_model(name, version),
            )
        if len(versions) == 1:
            return versions[0]
        return next((m for m in versions if m.ready), versions[0])

    def versions(self, name: str) -> list[str]:
        """The versions of a model, newest first. Raises `UnknownModel`."""
        self.find(name)
        return [m.version for m in self._versions[name]]
