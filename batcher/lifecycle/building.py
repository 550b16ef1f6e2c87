"""What the manager needs to build a generation of a model; `batcher.model_builder` does it."""

from __future__ import annotations

from typing import Protocol, TypeVar

from batcher.errors import StartupError
from batcher.lifecycle.wanted import WantedModel
from batcher.runtime.models.model import ServedModel

Prepared = TypeVar("Prepared")


class Builder(Protocol[Prepared]):
    """Builds generations in two steps: what may block, and what belongs to the event loop."""

    def prepare(self, wanted: WantedModel) -> Prepared:
        """Find what the model needs. Blocks. Raises `PluginError` and `ModelLoadError`."""
        ...

    def unprepared(self, wanted: WantedModel, error: StartupError) -> Prepared:
        """Stand for a model that `prepare` failed for: its load fails with this error."""
        ...

    def build(self, prepared: Prepared, generation: int) -> ServedModel:
        """A generation, not yet loaded."""
        ...
