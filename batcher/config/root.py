"""The whole configuration, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, model_validator

from batcher.config.metrics import MetricsConfig
from batcher.config.model import ModelConfig
from batcher.config.recording import FlightRecorderConfig, JournalConfig
from batcher.config.repository import ModelRepositoryConfig
from batcher.config.section import (
    Count,
    CrossCheckError,
    DeviceName,
    GpuName,
    KeyPath,
    Section,
    nearest,
)
from batcher.config.server import ServerConfig
from batcher.config.tracing import TracingConfig


class DeviceConfig(Section):
    """What is known of one device, and a bound on what runs on it at once."""

    max_in_flight: Count | None = None
    """Batches that run on the device at once, of all models and instances on it. null means as many
    as the model with the most `instances` times `max_in_flight` on it could run alone."""
    gpu: GpuName | None = None
    """The GPU that the device is, for its statistics and to notice that it fails: its number as
    nvidia-smi counts, its UUID (`GPU-...`, or `MIG-...` for a MIG instance) or its PCI bus id
    (`0000:3b:00.0`). null means the one that the executor says it uses. It does not choose the GPU
    that a model runs on."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.max_in_flight is None and self.gpu is None:
            missing = "empty, and so without effect; allowed: max_in_flight, gpu"
            raise CrossCheckError([((), missing)])
        return self


@dataclass(frozen=True, slots=True)
class _Source:
    """The text of a configuration. It does not count when configurations are compared."""

    text: str = field(default="", compare=False)


def _some_model(models: tuple[ModelConfig, ...], info: ValidationInfo) -> tuple[ModelConfig, ...]:
    # A repository that is wrong itself is not among the data.
    if not models and info.data.get("model_repository", models) is None:
        missing = "missing; needed: at least one model, or a model_repository"
        raise CrossCheckError([((), missing)])
    return models


class Config(Section):
    """A configuration file: validated as a whole, then frozen."""

    server: ServerConfig = ServerConfig()
    """Listeners, limits and shutdown."""
    model_repository: ModelRepositoryConfig | None = None
    """A directory of models in Triton's layout; null serves those of `models` alone."""
    models: Annotated[tuple[ModelConfig, ...], AfterValidator(_some_model)] = Field(
        default=(), validate_default=True
    )
    """The models to serve; at least one, unless there is a `model_repository`."""
    devices: dict[DeviceName, DeviceConfig] = Field(default_factory=dict)
    """What holds for a device, by its name."""
    journal: JournalConfig | None = None
    """The event log on disk, for `batcher replay`; null writes none."""
    flight_recorder: FlightRecorderConfig | None = None
    """The last minutes of the event log in memory, written to a file when something goes wrong;
    null keeps none."""
    tracing: TracingConfig | None = None
    """Which requests are traced, and where their spans are sent; null traces none."""

    metrics: MetricsConfig = MetricsConfig()
    """What `/metrics` exports."""

    _source: _Source = PrivateAttr(default_factory=_Source)
    _base_dir: Path = PrivateAttr(default_factory=Path)
    _base_dirs: dict[tuple[str, str], Path] = PrivateAttr(default_factory=dict)

    @property
    def base_dir(self) -> Path:
        """The folder of the configuration file, where relative paths start; `.` without a file."""
        return self._base_dir

    def base_dir_of(self, model: ModelConfig) -> Path:
        """Where relative paths in the options of one of its models start."""
        return self._base_dirs.get((model.name, model.version), self._base_dir)

    def joined(self, models: Iterable[tuple[ModelConfig, Path]]) -> Config:
        """The same with more models, each with its own `base_dir`, in place of a model repository."""
        found = tuple(models)
        all_models = (*self.models, *(model for model, _ in found))
        joined = self.model_copy(update={"models": all_models, "model_repository": None})
        joined._base_dirs = {  # noqa: SLF001 - of the same class
            (model.name, model.version): path for model, path in found
        }
        return joined

    @property
    def text(self) -> str:
        """The text of the file, with its references to the environment unexpanded."""
        return self._source.text

    def model_post_init(self, context: Any, /) -> None:
        """Keep the folder and the text that the loader passes along."""
        if context:
            self._base_dir = context.get("base_dir", self._base_dir)
            self._source = _Source(context.get("text", ""))

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        problems: list[tuple[KeyPath, str]] = []
        seen: set[tuple[str, str]] = set()
        for place, model in enumerate(self.models):
            identity = (model.name, model.version)
            if identity in seen:
                again = f"got {model.name} version {model.version} a second time"
                problems.append(
                    (("models", place, "name"), f"{again}; allowed: another name or version")
                )
            seen.add(identity)
        used = sorted({model.device for model in self.models})
        for device in self.devices:
            # What is in a repository may name any device, and changes.
            if device not in used and self.model_repository is None:
                hint = nearest(device, used)
                suffix = f" (did you mean {hint}?)" if hint else ""
                problems.append(
                    (
                        ("devices", device),
                        f"no model names this device; allowed: {', '.join(used)}{suffix}",
                    )
                )
        if self.metrics.triton_names and self.server.http is None:
            problems.append(
                (("metrics", "triton_names"), "no effect without server.http; allowed: with it")
            )
        CrossCheckError.raise_any(problems)
        return self


def device_limits(config: Config) -> dict[str, int]:
    """How many batches may run at once on each device that a model names.

    The bound in `devices`, else the largest `instances` times `max_in_flight` of any one model on
    the device: a model alone gets what it asks for, and models that share a device take turns.
    """
    return limits_of(config.models, config.devices)


def limits_of(models: Iterable[ModelConfig], devices: Mapping[str, DeviceConfig]) -> dict[str, int]:
    """The same of any models, whichever file they are written in."""
    limits: dict[str, int] = {}
    for model in models:
        alone = model.instances * model.max_in_flight
        limits[model.device] = max(limits.get(model.device, 0), alone)
    return limits | {
        name: device.max_in_flight
        for name, device in devices.items()
        if device.max_in_flight is not None
    }


def gpus_of(devices: Mapping[str, DeviceConfig]) -> dict[str, int | str]:
    """The GPU of each device for which the configuration says it."""
    return {name: device.gpu for name, device in devices.items() if device.gpu is not None}
