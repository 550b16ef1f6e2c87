"""The configuration in force and the only way to change it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from batcher.config import (
    Change,
    Config,
    Difference,
    ModelConfig,
    difference,
    loads_again,
    model_changes,
    tunable_settings,
    with_changes,
)
from batcher.config.section import KeyPath, dotted
from batcher.core.settings import ModelSettings
from batcher.errors import (
    BatcherError,
    ChangeFailed,
    ConfigError,
    InvalidRequest,
    ModelLoadError,
    UnknownModel,
    describe,
)
from batcher.journal import InForce
from batcher.live_settings.file_watch import read_stable
from batcher.runtime.interface.padding_rules import PaddingRules, read_padding_rules
from batcher.telemetry import ChangeResult, ChangeSource, SettingsTelemetry

log = logging.getLogger(__name__)

MAX_CHANGE_BYTES: Final = 16 * 1024
"""Bytes of the paths and values in one admin call. Parsing this much YAML takes a few tenths of a
second; it happens on another thread, but that thread and the event loop share the interpreter."""


class ConfigurableModel(Protocol):
    """The part of a served model that a change of settings needs."""

    @property
    def settings(self) -> ModelSettings:
        """Its settings as the scheduler reads them."""
        ...

    @property
    def rules(self) -> PaddingRules:
        """How its variable axes are padded."""
        ...

    @property
    def largest_batch(self) -> int:
        """The `max_batch_size` that its instances were loaded with."""
        ...

    def fitted(self, config: ModelConfig) -> ModelConfig:
        """The configuration for the batches that the model's backend takes. Raises `ValueError`."""
        ...

    def check_padding(self, rules: PaddingRules) -> None:
        """Raise `ModelLoadError` if the rules do not suit the model."""
        ...

    def configure(self, settings: ModelSettings, rules: PaddingRules) -> None:
        """Apply new settings now, or raise and keep the old ones."""
        ...


class ModelsInForce(Protocol):
    """The models that are served now, and as what. They come and go between two calls."""

    def configurations(self) -> Sequence[ModelConfig]:
        """The configuration in force of each model, of the file and of others, in order."""
        ...

    def of_file(self) -> Sequence[ModelConfig]:
        """Those of them that the configuration file has."""
        ...

    def configurable(self, name: str, version: str) -> ConfigurableModel | None:
        """The model to apply settings to; None if it is not known."""
        ...

    def configured(self, config: ModelConfig) -> None:
        """Note that a model's settings are now those of `config`, which loads nothing again."""
        ...

    def follow(self, config: Config) -> None:
        """Begin to serve what the file says: load, load again, drain. Returns at once.

        What the file said before and could not be loaded is tried again.
        """
        ...


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """What a change did (or would do, when only validated), and the generation now in force.

    Models that it adds, removes or loads again are under way.
    """

    changes: tuple[Change, ...]
    generation: int


class LiveSettings:
    """Changes the settings of served models. Call every method on the event loop's thread.

    Changes are parsed and validated on another thread and applied on the event loop, one at a time,
    in the order in which they were requested. `path` is the configuration file, None for a server
    that was started without one.
    """

    def __init__(
        self,
        config: Config,
        models: ModelsInForce,
        telemetry: SettingsTelemetry,
        path: Path | None = None,
    ) -> None:
        self._from_file = config
        self._models = models
        self._telemetry = telemetry
        self._path = path
        self._changing = asyncio.Lock()
        self.read_again = False
        """Whether what watches the file reads it once as if it had changed, which is no attempt to change."""

    @property
    def config(self) -> Config:
        """The configuration in force: the file that was applied last, with its models as they are served.

        A model whose load has failed, or is not over yet, is in it as it was before.
        """
        return self._from_file.model_copy(update={"models": tuple(self._models.of_file())})

    @property
    def generation(self) -> int:
        """The number of the settings in force: 1 at the start, plus 1 for each change."""
        return self._telemetry.generation

    def in_force(self) -> InForce:
        """The text of the file applied last, and the changes by admin calls since then."""
        changes = difference(self._from_file, self.config).changes
        return InForce(
            self._from_file.text,
            tuple(
                f"{c.model}/{c.version}{f' {dotted(c.path)}' if c.path else ''}: {c.new}"
                for c in changes
            ),
        )

    def values(self, name: str = "", version: str = "") -> list[tuple[str, str, dict[str, Any]]]:
        """Return (name, version, changeable settings) of the models that match; "" matches all.

        Raises `UnknownModel` if none matches.
        """
        wanted = [
            model
            for model in self._models.configurations()
            if name in {"", model.name} and version in {"", model.version}
        ]
        if not wanted:
            raise self._unknown(name, version)
        return [(model.name, model.version, tunable_settings(model)) for model in wanted]

    async def update(
        self, name: str, version: str, changes: Mapping[str, str], *, validate_only: bool = False
    ) -> AppliedChange:
        """Apply changes to one model, all or none: path below the model -> value in YAML.

        Raises `UnknownModel`; `InvalidRequest`, which names every wrong path (or the size, above
        `MAX_CHANGE_BYTES`); and `ChangeFailed` if a valid change could not be applied. In all these
        cases, and when this coroutine is cancelled, the settings are as before.
        """
        source = ChangeSource.RPC
        async with self._changing:
            try:
                model = self._model(name, version)
                changed = await self._updated(model, changes)
                # It may have been loaded again, or removed, while the values were read.
                model = self._model(model.name, model.version)
                self._refuse(self._model_problems(changed, ""))
            except BatcherError as error:
                if not validate_only:
                    self._telemetry.count(source, ChangeResult.REJECTED, _public(error))
                    log.warning(
                        "settings: a change by an admin call is refused, nothing changed: %s",
                        _on_one_line(error),
                    )
                if isinstance(error, ConfigError):
                    raise InvalidRequest(_on_one_line(error)) from error
                raise
            found = tuple(model_changes(model, changed))
            if validate_only:
                return AppliedChange(found, self.generation)
            return self._apply([(changed, "")], found, source)

    async def reload(self, source: ChangeSource) -> AppliedChange:
        """Read the file and apply it; changes by admin calls are undone.

        Settings hold when this returns; models that are new, gone, or have to be loaded again are under
        way then. A watched file (`ChangeSource.FILE`) whose settings are the same as before changes
        nothing; otherwise what could not be loaded is tried again.
        Raises `ConfigError`, which names every path that is wrong or needs a restart, and
        `ChangeFailed`. Either is logged and counted, and the settings are as before.
        """
        async with self._changing:
            try:
                config = await self._read()
                read_again = source is ChangeSource.FILE and self.read_again
                if source is ChangeSource.FILE:
                    self.read_again = False
                if source is ChangeSource.FILE and config == self._from_file:
                    if not read_again:
                        self._telemetry.count(source, ChangeResult.UNCHANGED)
                    return AppliedChange((), self.generation)
                in_force = self.config
                found = difference(in_force, config)
                in_place = self._validated(config, in_force, found)
            except ConfigError as error:
                self._telemetry.count(source, ChangeResult.REJECTED, _public(error))
                log.error(  # noqa: TRY400 - the message is for the author of the file
                    "settings: %s is not applied, the previous settings stay in force: %s",
                    self._path,
                    _on_one_line(error),
                )
                raise
            by_call = self._changed_by_calls()
            applied = self._apply(in_place, found.changes, source, by_call, more=found.devices)
            self._from_file = config
            self._models.follow(config)
            return applied

    # How a change is made

    def _model(self, name: str, version: str) -> ModelConfig:
        if not name:
            raise InvalidRequest(
                "model: the request names no model; give the name of a served model"
            )
        versions = [
            model
            for model in self._models.configurations()
            if model.name == name and version in {"", model.version}
        ]
        if not versions:
            raise self._unknown(name, version)
        if len(versions) > 1:
            several = ", ".join(model.version for model in versions)
            raise InvalidRequest(f"version: {name} has several versions; give one of {several}")
        return versions[0]

    async def _updated(self, model: ModelConfig, changes: Mapping[str, str]) -> ModelConfig:
        if not changes:
            raise InvalidRequest("changes: got none; give at least one path with a value")
        size = sum(len(path.encode()) + len(value.encode()) for path, value in changes.items())
        if size > MAX_CHANGE_BYTES:
            raise InvalidRequest(
                f"changes: got {size} bytes of paths and values; allowed: at most {MAX_CHANGE_BYTES};"
                " put larger changes into the configuration file"
            )
        changed = await asyncio.to_thread(with_changes, model, changes)
        if changed.label_files() != model.label_files():
            problem = (
                "outputs: a change of labels loads the model again, for which the configuration file has"
                " to change"
            )
            raise ConfigError([problem])
        if changed.batching.batch_sizes != model.batching.batch_sizes:
            problem = (
                "batching.batch_sizes: a change loads the model again, for which the configuration file"
                " has to change"
            )
            raise ConfigError([problem])
        return changed

    async def _read(self) -> Config:
        if self._path is None:
            raise ConfigError(["there is no file to read: the server was started without one"])
        return await asyncio.to_thread(read_stable, self._path)

    def _validated(
        self, config: Config, in_force: Config, found: Difference
    ) -> list[tuple[ModelConfig, str]]:
        """The models of a file that change in place, each with the beginning of its paths.

        Raises `ConfigError` if the file cannot be applied.
        """
        problems = [f"{path}: needs a restart" for path in found.restart]
        known = {(model.name, model.version): model for model in in_force.models}
        in_place: list[tuple[ModelConfig, str]] = []
        for place, model in enumerate(config.models):
            before, above = known.get((model.name, model.version)), f"models[{place}]."
            if before is None or before == model or self._loads_again(before, model):
                continue
            problems += self._model_problems(model, above)
            in_place.append((model, above))
        self._refuse(problems)
        return in_place

    def _loads_again(self, before: ModelConfig, model: ModelConfig) -> bool:
        served = self._models.configurable(model.name, model.version)
        if served is None:
            return True
        rows = _rows(served, model)
        return (
            loads_again(before, model)
            or bool(_unfit(served, model))
            or bool(rows) is not bool(served.largest_batch)
            or rows > served.largest_batch
        )

    def _model_problems(self, model: ModelConfig, above: str) -> list[str]:
        """Why settings cannot be applied in place. Paths begin with `above`."""
        served = self._models.configurable(model.name, model.version)
        if served is None:
            return []
        rows, problems = _rows(served, model), list[str]()
        if bool(rows) is not bool(served.largest_batch):
            problems.append(
                f"{above}batching.max_batch_size: a change from or to 0 (a model without a batch axis)"
                " loads the model again, for which the configuration file has to change"
            )
        elif rows > served.largest_batch:
            problems.append(
                f"{above}batching.max_batch_size: got {rows}; allowed: at most {served.largest_batch},"
                " the size that its instances were loaded and warmed up with; for a larger one the"
                " configuration file has to change, which loads the model again"
            )
        elif why := _unfit(served, model):
            problems.append(f"{above}{why}")
        try:
            served.check_padding(read_padding_rules(model, above))
        except ModelLoadError as error:
            problems.append(str(error))
        return problems

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            raise ConfigError(problems, source=None if self._path is None else str(self._path))

    def _apply(
        self,
        in_place: Sequence[tuple[ModelConfig, str]],
        changes: tuple[Change, ...],
        source: ChangeSource,
        by_call: frozenset[tuple[str, str, KeyPath]] = frozenset(),
        *,
        more: bool = False,
    ) -> AppliedChange:
        """Configure models in place, all or none, in this iteration of the event loop.

        `changes` are all that a change consists of; `more` says that there is something else.
        """
        if not changes and not more:
            self._telemetry.count(source, ChangeResult.UNCHANGED)
            log.info("settings: no difference, nothing changed (%s)", source.value)
            return AppliedChange((), self.generation)
        try:
            self._configure_all(in_place)
        except ChangeFailed as error:
            self._telemetry.count(source, ChangeResult.FAILED, _public(error))
            log.error("settings: a change failed, the previous settings stay in force: %s", error)  # noqa: TRY400 - the reason is in the message
            raise
        self._telemetry.count(source, ChangeResult.APPLIED, _summary(changes))
        for change in changes:
            undoes = (change.model, change.version, change.path) in by_call
            log.info(
                "settings: %s (%s%s, generation %d)",
                change,
                source.value,
                ", undoes an admin call" if undoes else "",
                self.generation,
            )
        return AppliedChange(changes, self.generation)

    def _changed_by_calls(self) -> frozenset[tuple[str, str, KeyPath]]:
        """The settings that differ from the file because an admin call changed them."""
        changes = difference(self._from_file, self.config).changes
        return frozenset((change.model, change.version, change.path) for change in changes)

    def _configure_all(self, in_place: Sequence[tuple[ModelConfig, str]]) -> None:
        """Configure all models or none. Raises `ChangeFailed`."""
        done: list[tuple[ConfigurableModel, str, ModelSettings, PaddingRules]] = []
        for wanted, above in in_place:
            model = self._models.configurable(wanted.name, wanted.version)
            if model is None:
                continue
            settings, before = model.fitted(wanted).scheduler_settings(), model.settings
            rules, padded = read_padding_rules(wanted, above), model.rules
            if (settings, rules) == (before, padded):
                continue
            try:
                model.configure(settings, rules)
            except Exception as error:
                for each in reversed(done):
                    _restore(*each)
                if isinstance(error, ChangeFailed):
                    raise
                raise ChangeFailed(f"{wanted.name}: {describe(error)}") from error
            done.append((model, wanted.name, before, padded))
        for wanted, _ in in_place:
            self._models.configured(wanted)

    def _unknown(self, name: str, version: str) -> UnknownModel:
        known = ", ".join(f"{m.name} version {m.version}" for m in self._models.configurations())
        wanted = f"{name} version {version}" if version else name
        return UnknownModel(f"model: got {wanted}; allowed: {known}")


def _rows(served: ConfigurableModel, config: ModelConfig) -> int:
    """The `max_batch_size` that a configuration asks for."""
    try:
        return served.fitted(config).batching.max_batch_size
    except ValueError:
        return config.batching.max_batch_size


def _unfit(served: ConfigurableModel, config: ModelConfig) -> str:
    """Why the loaded executor cannot run the batches that a configuration asks for; empty if it can."""
    try:
        served.fitted(config)
    except ValueError as error:
        return str(error)
    return ""


def _restore(
    model: ConfigurableModel, name: str, settings: ModelSettings, rules: PaddingRules
) -> None:
    try:
        model.configure(settings, rules)
    except Exception:
        log.exception("%s: its previous settings could not be restored; restart the server", name)


def _on_one_line(error: BatcherError) -> str:
    if isinstance(error, ConfigError):
        return "; ".join(error.problems)
    return str(error)


def _summary(changes: Sequence[Change]) -> str:
    """What changed, for the live view, which anyone may read: values of options stay out of it."""
    return "; ".join(
        f"{c.model}/{c.version} {dotted(c.path)}" if c.path[:1] == ("options",) else str(c)
        for c in changes
    )


def _public(error: BatcherError) -> str:
    """Why nothing changed, for the live view: options may hold credentials, so only their paths are in it."""
    problems = error.problems if isinstance(error, ConfigError) else [str(error)]
    return "; ".join(
        f"{problem.partition(':')[0]}: see the log" if "options" in problem else problem
        for problem in problems
    )
