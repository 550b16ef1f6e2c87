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
    """The generation of each model and version that gets new requests. Changes while the server runs.

    Iterates in the order in which the models came. Every change is whole before another event is
    handled, so that no request falls between two generations. Call every method on the event loop.
    """

    def __init__(self, models: Sequence[ServedModel] = ()) -> None:
        self._models: dict[tuple[str, str], ServedModel] = {}
        self._versions: dict[str, list[ServedModel]] = {}
        for model in models:
            self.put(model)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(tuple(self._models.values()))

    def put(self, model: ServedModel) -> None:
        """Send new requests to this generation, instead of another one of the same name and version."""
        self._models[model.name, model.version] = model
        self._sort(model.name)

    def remove(self, name: str, version: str) -> None:
        """Forget a name and version: new requests for it are refused as those for an unknown model."""
        self._models.pop((name, version), None)
        self._sort(name)

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
            known = ", ".join(self._versions) or "none"
            raise UnknownModel(
                f"unknown model {shown(name)}; known models: {known}",
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

    def _sort(self, name: str) -> None:
        versions = [model for model in self._models.values() if model.name == name]
        versions.sort(key=lambda model: int(model.version), reverse=True)
        if versions:
            self._versions[name] = versions
        else:
            self._versions.pop(name, None)
