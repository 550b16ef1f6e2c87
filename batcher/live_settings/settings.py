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

    name: str
    version: str
    settings: ModelSettings
    rules: PaddingRules

    @property
    def largest_batch(self) -> int:
        """The `max_batch_size` that its instances were loaded with."""
        ...

    def check_padding(self, rules: PaddingRules) -> None:
        """Raise `ModelLoadError` if the rules do not suit the model."""
        ...

    def configure(self, settings: ModelSettings, rules: PaddingRules) -> None:
        """Apply new settings now, or raise and keep the old ones."""
        ...


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """What a change did (or would do, when only validated), and the generation now in force."""

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
        models: Sequence[ConfigurableModel],
        telemetry: SettingsTelemetry,
        path: Path | None = None,
    ) -> None:
        self.config = config
        """The configuration in force."""
        self._from_file = config
        self._models = {(model.name, model.version): model for model in models}
        self._telemetry = telemetry
        self._path = path
        self._changing = asyncio.Lock()

    @property
    def generation(self) -> int:
        """The number of the settings in force: 1 at the start, plus 1 for each change."""
        return self._telemetry.generation

    def in_force(self) -> InForce:
        """The text of the file applied last, and the changes by admin calls since then."""
        changes = difference(self._from_file, self.config).changes
        return InForce(
            self._from_file.text,
            tuple(f"{c.model}/{c.version} {dotted(c.path)}: {c.new}" for c in changes),
        )

    def values(self, name: str = "", version: str = "") -> list[tuple[str, str, dict[str, Any]]]:
        """Return (name, version, changeable settings) of the models that match; "" matches all.

        Raises `UnknownModel` if none matches.
        """
        wanted = [
            model
            for model in self.config.models
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
                config = await self._updated(self._model(name, version), changes)
                found = self._validated(config, in_file=False)
            except BatcherError as error:
                if not validate_only:
                    self._telemetry.count(source, ChangeResult.REJECTED)
                    log.warning(
                        "settings: a change by an admin call is refused, nothing changed: %s",
                        _on_one_line(error),
                    )
                if isinstance(error, ConfigError):
                    raise InvalidRequest(_on_one_line(error)) from error
                raise
            if validate_only:
                return AppliedChange(found.changes, self.generation)
            return self._apply(config, found, source)

    async def reload(self, source: ChangeSource) -> AppliedChange:
        """Read the file and apply it; changes by admin calls are undone.

        A watched file (`ChangeSource.FILE`) whose settings are the same as before changes nothing.
        Raises `ConfigError`, which names every path that is wrong or needs a restart, and
        `ChangeFailed`. Either is logged and counted, and the settings are as before.
        """
        async with self._changing:
            try:
                config = await self._read()
                if source is ChangeSource.FILE and config == self._from_file:
                    self._telemetry.count(source, ChangeResult.UNCHANGED)
                    return AppliedChange((), self.generation)
                found = self._validated(config, in_file=True)
            except ConfigError as error:
                self._telemetry.count(source, ChangeResult.REJECTED)
                log.error(  # noqa: TRY400 - the message is for the author of the file
                    "settings: %s is not applied, the previous settings stay in force: %s",
                    self._path,
                    _on_one_line(error),
                )
                raise
            applied = self._apply(config, found, source, whole_file=True)
            self._from_file = config
            return applied

    # How a change is made

    def _model(self, name: str, version: str) -> ModelConfig:
        if not name:
            raise InvalidRequest(
                "model: the request names no model; give the name of a served model"
            )
        versions = [
            model
            for model in self.config.models
            if model.name == name and version in {"", model.version}
        ]
        if not versions:
            raise self._unknown(name, version)
        if len(versions) > 1:
            several = ", ".join(model.version for model in versions)
            raise InvalidRequest(f"version: {name} has several versions; give one of {several}")
        return versions[0]

    async def _updated(self, model: ModelConfig, changes: Mapping[str, str]) -> Config:
        if not changes:
            raise InvalidRequest("changes: got none; give at least one path with a value")
        size = sum(len(path.encode()) + len(value.encode()) for path, value in changes.items())
        if size > MAX_CHANGE_BYTES:
            raise InvalidRequest(
                f"changes: got {size} bytes of paths and values; allowed: at most {MAX_CHANGE_BYTES};"
                " put larger changes into the configuration file"
            )
        changed = await asyncio.to_thread(with_changes, model, changes)
        models = tuple(changed if each is model else each for each in self.config.models)
        return self.config.model_copy(update={"models": models})

    async def _read(self) -> Config:
        if self._path is None:
            raise ConfigError(["there is no file to read: the server was started without one"])
        return await asyncio.to_thread(read_stable, self._path)

    def _validated(self, config: Config, *, in_file: bool) -> Difference:
        """Return how a configuration differs from the one in force.

        Raises `ConfigError` if it cannot be applied. Its paths start at the top of the file
        (`in_file`) or at the one model that is being changed.
        """
        found = difference(self.config, config)
        problems = [f"{path}: needs a restart" for path in found.restart]
        labels = {(m.name, m.version): m.label_files() for m in self.config.models}
        for place, model in enumerate(config.models):
            served = self._models.get((model.name, model.version))
            rows = model.batching.max_batch_size
            above = f"models[{place}]." if in_file else ""
            if served is not None and bool(rows) is not bool(served.largest_batch):
                problems.append(
                    f"{above}batching.max_batch_size: a change from or to 0 (a model without a"
                    " batch axis) needs a restart"
                )
            elif served is not None and rows > served.largest_batch:
                problems.append(
                    f"{above}batching.max_batch_size: got {rows}; allowed: at most"
                    f" {served.largest_batch}, the size that its instances were loaded and warmed"
                    " up with; a larger one needs a restart"
                )
            if labels.get((model.name, model.version), {}) != model.label_files():
                problems.append(f"{above}outputs: a change of labels needs a restart")
            if served is not None:
                try:
                    served.check_padding(read_padding_rules(model, above))
                except ModelLoadError as error:
                    problems.append(str(error))
        if problems:
            raise ConfigError(problems, source=None if self._path is None else str(self._path))
        return found

    def _apply(
        self, config: Config, found: Difference, source: ChangeSource, *, whole_file: bool = False
    ) -> AppliedChange:
        """Apply a validated configuration, in this iteration of the event loop."""
        if not found.changes:
            self.config = config
            self._telemetry.count(source, ChangeResult.UNCHANGED)
            log.info("settings: no difference, nothing changed (%s)", source.value)
            return AppliedChange((), self.generation)
        by_call = self._changed_by_calls() if whole_file else set()
        try:
            self._configure_all(config)
        except ChangeFailed as error:
            self._telemetry.count(source, ChangeResult.FAILED)
            log.error("settings: a change failed, the previous settings stay in force: %s", error)  # noqa: TRY400 - the reason is in the message
            raise
        self.config = config
        self._telemetry.count(source, ChangeResult.APPLIED)
        for change in found.changes:
            undoes = (change.model, change.version, change.path) in by_call
            log.info(
                "settings: %s (%s%s, generation %d)",
                change,
                source.value,
                ", undoes an admin call" if undoes else "",
                self.generation,
            )
        return AppliedChange(found.changes, self.generation)

    def _changed_by_calls(self) -> set[tuple[str, str, KeyPath]]:
        """The settings that differ from the file because an admin call changed them."""
        changes = difference(self._from_file, self.config).changes
        return {(change.model, change.version, change.path) for change in changes}

    def _configure_all(self, config: Config) -> None:
        """Configure all models or none. Raises `ChangeFailed`."""
        done: list[tuple[ConfigurableModel, ModelSettings, PaddingRules]] = []
        for place, wanted in enumerate(config.models):
            model = self._models[wanted.name, wanted.version]
            settings, before = wanted.scheduler_settings(), model.settings
            rules, padded = read_padding_rules(wanted, f"models[{place}]."), model.rules
            if (settings, rules) == (before, padded):
                continue
            try:
                model.configure(settings, rules)
            except Exception as error:
                for other, previous, rules_before in reversed(done):
                    _restore(other, previous, rules_before)
                if isinstance(error, ChangeFailed):
                    raise
                raise ChangeFailed(f"{wanted.name}: {describe(error)}") from error
            done.append((model, before, padded))

    def _unknown(self, name: str, version: str) -> UnknownModel:
        known = ", ".join(f"{model.name} version {model.version}" for model in self.config.models)
        wanted = f"{name} version {version}" if version else name
        return UnknownModel(f"model: got {wanted}; allowed: {known}")


def _restore(model: ConfigurableModel, settings: ModelSettings, rules: PaddingRules) -> None:
    try:
        model.configure(settings, rules)
    except Exception:
        log.exception(
            "%s: its previous settings could not be restored; restart the server", model.name
        )


def _on_one_line(error: BatcherError) -> str:
    if isinstance(error, ConfigError):
        return "; ".join(error.problems)
    return str(error)
