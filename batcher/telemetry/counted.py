"""`CountedModels`: the counts of every model, and which generation belongs to which."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from batcher.clock import Clock
from batcher.core.observation import ModelObservation, Observation
from batcher.journal import Tally
from batcher.telemetry.busy import DeviceUses
from batcher.telemetry.export import Labels, histograms
from batcher.telemetry.families import Family
from batcher.telemetry.generations import merged
from batcher.telemetry.histogram import Histogram
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.tally import tally


class CountedModels:
    """The counts of each model by its labels. Iterating gives them in the order of their first use."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.devices = DeviceUses()
        """How busy each device is with the batches of all models."""
        self._models: dict[tuple[str, str], ModelTelemetry] = {}
        self._keys: dict[str, ModelTelemetry] = {}
        """What `Observation` calls a generation -> the counts of its model."""

    def __iter__(self) -> Iterator[ModelTelemetry]:
        return iter(self._models.values())

    def tallies(self) -> dict[str, Tally]:
        """Counts for the flight recorder, by the scheduler's name of each model."""
        return {f"{name}/{version}": tally(m) for (name, version), m in self._models.items()}

    def model(self, key: str, name: str, version: str) -> ModelTelemetry:
        """The counts of one model, which its generations share; made on first use.

        `key` is what `Observation` calls this generation; `name` and `version` become labels. Call
        `forget` when the generation is gone, and `remove` when the model is.
        """
        model = self._models.get((name, version))
        if model is None:
            model = ModelTelemetry(name, version, clock=self._clock)
            model.devices = self.devices
            model.serving = key
            self._models[name, version] = model
        self._keys[key] = model
        return model

    def known(self, name: str, version: str) -> ModelTelemetry | None:
        """The counts of the model with these labels; None if there is none."""
        return self._models.get((name, version))

    def of_generation(self, key: str) -> ModelTelemetry | None:
        """The counts of the model that a generation is of; None for one that is not known."""
        return self._keys.get(key)

    def forget(self, key: str) -> None:
        """Note that a generation is gone. Its model keeps what was counted."""
        self._keys.pop(key, None)

    def remove(self, name: str, version: str) -> None:
        """Export nothing of a model any more; should it come back, its counts begin at 0."""
        model = self._models.pop((name, version), None)
        if model is not None:
            model.removed()

    def labels(self, key: str) -> Labels | None:
        """The labels of a generation; None once it is forgotten, though the scheduler may have it yet."""
        model = self._keys.get(key)
        return None if model is None else model.labels

    def observed(self, observation: Observation) -> list[tuple[Labels, ModelObservation]]:
        """The labels of each model, and what is observed of all its generations."""
        generations: dict[Labels, list[ModelObservation]] = {}
        for model in observation.models:
            if (labels := self.labels(model.model)) is not None:
                generations.setdefault(labels, []).append(model)
        serving: dict[Labels, str] = {
            model.labels: model.serving for model in self._models.values()
        }
        return [(ls, merged(found, serving.get(ls, ""))) for ls, found in generations.items()]

    def histogram(self, family: Family, of: Callable[[ModelTelemetry], Histogram]) -> Metric:
        """A family with one histogram for each model."""
        return histograms(family, ((m.labels, of(m)) for m in self._models.values()))
