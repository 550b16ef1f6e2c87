"""What sources of models and the manager exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from batcher.config import ModelConfig


class Source(StrEnum):
    """Where it is written that a model is served. A model belongs to one source at a time."""

    FILE = "file"
    """The section `models` of the configuration file."""
    REPOSITORY = "repository"
    """A model repository."""


@dataclass(frozen=True, slots=True)
class WantedModel:
    """One model name and version as a source wants it served.

    Two that are equal describe the same model: nothing is loaded again.
    """

    config: ModelConfig
    base_dir: Path = Path()
    """Where relative paths in `config.options` start."""
    where: str = field(default="", compare=False)
    """The beginning of a path in messages: `models[2].`, or the file with `: ` after it."""
    contents: str = ""
    """Stands for the contents of the model's files: another text loads the model again, although its
    configuration is the same. Empty where nothing watches them."""

    @property
    def identity(self) -> tuple[str, str]:
        """Its name and version."""
        return self.config.name, self.config.version


class ChangeResult(StrEnum):
    """What became of one model of a change."""

    UNCHANGED = "unchanged"
    CONFIGURED = "configured"
    """Its settings changed in place: nothing had to be loaded."""
    LOADED = "loaded"
    RELOADED = "reloaded"
    REMOVED = "removed"
    FAILED = "failed"
    """It could not be loaded. What served before serves on."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """What became of one model; `reason` says why it failed, on one line."""

    name: str
    version: str
    result: ChangeResult
    reason: str = ""
    unavailable: bool = False
    """Whether it failed because a backend that it needs is not up, so that another try may help."""


@dataclass(frozen=True, slots=True)
class LoadParameters:
    """The parameters of `RepositoryModelLoad`: a configuration, and files in its place."""

    config: str | None = None
    """A model configuration as JSON, to be used instead of the one in the repository."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Path below the model's folder (`1/model.onnx`, without `file:`) -> contents."""

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.config is not None or bool(self.files)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that a repository has and that is not served, for the index; `reason` says why."""

    name: str
    version: str
    reason: str = ""


class ModelRepository(Protocol):
    """What the manager asks of a model repository. Call every method on the event loop's thread."""

    async def load(self, name: str, parameters: LoadParameters) -> Sequence[WantedModel]:
        """Every version of a model that is to be served from now on, because an admin call loads it.

        The manager loads them, also those that are served already, and tells `loaded` what became of
        them. It leaves other versions as they are: the repository has them drained when it may.
        Raises `UnknownModel` if the repository does not have the model, `InvalidRequest` if the
        parameters or its files are wrong.
        """
        ...

    async def loaded(self, name: str, changes: Sequence[ModelChange]) -> None:
        """Note what became of the versions that `load` returned. Called once after each `load`."""
        ...

    async def unload(self, name: str) -> None:
        """Note that an admin call unloads the model: it is not to be served until a call loads it."""
        ...

    def known(self) -> Sequence[KnownModel]:
        """The models that it has and does not want served now."""
        ...


class ServesModels(Protocol):
    """What a source needs of the manager."""

    async def serve(self, source: Source, models: Sequence[WantedModel]) -> tuple[ModelChange, ...]:
        """Serve these models of a source from now on, and no others of it.

        New ones are loaded; those that differ from before are configured in place where that is
        enough, else loaded beside the old ones, which they replace; those that are missing are
        drained and unloaded. Returns when all that is over, with what became of each model in the
        order given, then of those that are gone. Never raises for a model: one that cannot be loaded
        is `FAILED`, and what served before serves on. A model that another source has is `FAILED`, too.

        A call supersedes the ones before it: a load that is in progress and no longer wanted ends.
        The caller needs no lock, and may be cancelled: then what has begun goes on.
        """
        ...
