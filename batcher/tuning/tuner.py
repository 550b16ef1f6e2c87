"""The configuration in force, and the one way to change it."""

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
from batcher.runtime.interface.padding_rules import PaddingRules, read_padding_rules
from batcher.telemetry import ChangeResult, ChangeSource, SettingsTelemetry
from batcher.tuning.watch import read_settled

log = logging.getLogger(__name__)

MOST_BYTES: Final = 16 * 1024
"""Paths and values of one admin call. Reading so much takes a few tenths of a second, on another
thread, but one that the event loop has to share the interpreter with."""


class Tunable(Protocol):
    """A served model, as far as changing its settings goes."""

    name: str
    version: str
    settings: ModelSettings
    rules: PaddingRules

    @property
    def largest_batch(self) -> int:
        """The most rows that its instances were made for."""
        ...

    def check_padding(self, rules: PaddingRules) -> None:
        """Raise `ModelLoadError` where the rules do not fit the model."""
        ...

    def configure(self, settings: ModelSettings, rules: PaddingRules) -> None:
        """Take new settings at once, or raise and keep the old ones."""
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change did, or would do; the generation of the settings in force."""

    changes: tuple[Change, ...]
    generation: int


class Tuner:
    """Changes the settings of served models. Every method runs on the event loop's thread.

    What is asked for is read and validated on another one, and put in force on this one; changes take
    turns, in the order in which they were asked for. `path` is the configuration file, None for a server that was made without one.
    """

    def __init__(
        self,
        config: Config,
        models: Sequence[Tunable],
        telemetry: SettingsTelemetry,
        path: Path | None = None,
    ) -> None:
        self.config = config
        """What is in force."""
        self._from_file = config
        self._models = {(model.name, model.version): model for model in models}
        self._telemetry = telemetry
        self._path = path
        self._changing = asyncio.Lock()

    @property
    def generation(self) -> int:
        """Which settings are in force: 1 at the start, one more after each change."""
        return self._telemetry.generation

    def in_force(self) -> InForce:
        """The file that was applied last, and what admin calls have changed since."""
        changes = difference(self._from_file, self.config).changes
        return InForce(
            self._from_file.text,
            tuple(f"{c.model}/{c.version} {dotted(c.path)}: {c.new}" for c in changes),
        )

    def settings(self, name: str = "", version: str = "") -> list[tuple[str, str, dict[str, Any]]]:
        """(name, version, tunable values) of the models asked for; of all without a name.

        Raises `UnknownModel`.
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
    ) -> Applied:
        """Change values of one model: path below the model -> value in YAML. All of them or none.

        Raises `UnknownModel`, `InvalidRequest` naming every path that is wrong (or the size, above
        `MOST_BYTES`), and `ChangeFailed` when a right change could not be applied; then everything
        is as before, as it is when this is cancelled.
        """
        source = ChangeSource.RPC
        async with self._changing:
            try:
                config = await self._updated(self._model(name, version), changes)
                found = self._checked(config, in_file=False)
            except BatcherError as error:
                if not validate_only:
                    self._telemetry.count(source, ChangeResult.REJECTED)
                    log.warning(
                        "settings: an admin call's change was refused: %s", _on_one_line(error)
                    )
                if isinstance(error, ConfigError):
                    raise InvalidRequest(_on_one_line(error)) from error
                raise
            if validate_only:
                return Applied(found.changes, self.generation)
            return self._take(config, found, source)

    async def reload(self, source: ChangeSource) -> Applied:
        """Read the file and put its settings in force; what admin calls changed is undone.

        A watched file (`ChangeSource.FILE`) that says what it said before changes nothing. Raises
        `ConfigError` naming every path that is wrong or needs a restart, and `ChangeFailed`;
        either is logged and counted, and everything is as before.
        """
        async with self._changing:
            try:
                config = await self._read()
                if source is ChangeSource.FILE and config == self._from_file:
                    self._telemetry.count(source, ChangeResult.UNCHANGED)
                    return Applied((), self.generation)
                found = self._checked(config, in_file=True)
            except ConfigError as error:
                self._telemetry.count(source, ChangeResult.REJECTED)
                log.error(  # noqa: TRY400 - the message is for whoever wrote the file
                    "settings: %s was not taken, the old ones are in force: %s",
                    self._path,
                    _on_one_line(error),
                )
                raise
            applied = self._take(config, found, source, whole_file=True)
            self._from_file = config
            return applied

    # How a change is made

    def _model(self, name: str, version: str) -> ModelConfig:
        if not name:
            raise InvalidRequest("model: the request names no model; allowed: a model's name")
        versions = [
            model
            for model in self.config.models
            if model.name == name and version in {"", model.version}
        ]
        if not versions:
            raise self._unknown(name, version)
        if len(versions) > 1:
            several = ", ".join(model.version for model in versions)
            raise InvalidRequest(f"version: {name} has several; allowed: one of {several}")
        return versions[0]

    async def _updated(self, model: ModelConfig, changes: Mapping[str, str]) -> Config:
        if not changes:
            raise InvalidRequest("changes: none given; allowed: at least one path and its value")
        size = sum(len(path.encode()) + len(value.encode()) for path, value in changes.items())
        if size > MOST_BYTES:
            raise InvalidRequest(
                f"changes: got {size} bytes of paths and values; allowed: at most {MOST_BYTES};"
                " larger ones go into the file"
            )
        changed = await asyncio.to_thread(with_changes, model, changes)
        models = tuple(changed if each is model else each for each in self.config.models)
        return self.config.model_copy(update={"models": models})

    async def _read(self) -> Config:
        if self._path is None:
            raise ConfigError(["the server was started without a file"])
        return await asyncio.to_thread(read_settled, self._path)

    def _checked(self, config: Config, *, in_file: bool) -> Difference:
        """How a configuration differs from the one in force, if it can be put in force.

        Raises ConfigError otherwise; paths start at the file's top, or at the one model that is
        being changed.
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
                    f"{above}batching.max_batch_size: from or to 0, a model without a batch axis,"
                    " needs a restart"
                )
            elif served is not None and rows > served.largest_batch:
                problems.append(
                    f"{above}batching.max_batch_size: got {rows}; allowed: at most"
                    f" {served.largest_batch}, what its instances were loaded and warmed up for;"
                    " more needs a restart"
                )
            if labels.get((model.name, model.version), {}) != model.label_files():
                problems.append(f"{above}outputs: other labels need a restart")
            if served is not None:
                try:
                    served.check_padding(read_padding_rules(model, above))
                except ModelLoadError as error:
                    problems.append(str(error))
        if problems:
            raise ConfigError(problems, source=None if self._path is None else str(self._path))
        return found

    def _take(
        self, config: Config, found: Difference, source: ChangeSource, *, whole_file: bool = False
    ) -> Applied:
        """Put a checked configuration in force, in this turn of the event loop."""
        if not found.changes:
            self.config = config
            self._telemetry.count(source, ChangeResult.UNCHANGED)
            log.info("settings: nothing to change (%s)", source.value)
            return Applied((), self.generation)
        by_call = self._changed_by_calls() if whole_file else set()
        try:
            self._configure_all(config)
        except ChangeFailed as error:
            self._telemetry.count(source, ChangeResult.FAILED)
            log.error("settings: a change failed, the old ones are in force: %s", error)  # noqa: TRY400 - the reason is in the message
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
        return Applied(found.changes, self.generation)

    def _changed_by_calls(self) -> set[tuple[str, str, KeyPath]]:
        """Where what is in force is not what the file said."""
        changes = difference(self._from_file, self.config).changes
        return {(change.model, change.version, change.path) for change in changes}

    def _configure_all(self, config: Config) -> None:
        """All models or none. Raises `ChangeFailed`."""
        done: list[tuple[Tunable, ModelSettings, PaddingRules]] = []
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
                    _put_back(other, previous, rules_before)
                if isinstance(error, ChangeFailed):
                    raise
                raise ChangeFailed(f"{wanted.name}: {describe(error)}") from error
            done.append((model, before, padded))

    def _unknown(self, name: str, version: str) -> UnknownModel:
        known = ", ".join(f"{model.name} version {model.version}" for model in self.config.models)
        wanted = f"{name} version {version}" if version else name
        return UnknownModel(f"model: got {wanted}; served are {known}")


def _put_back(model: Tunable, settings: ModelSettings, rules: PaddingRules) -> None:
    try:
        model.configure(settings, rules)
    except Exception:
        log.exception("%s: its old settings could not be put back", model.name)


def _on_one_line(error: BatcherError) -> str:
    if isinstance(error, ConfigError):
        return "; ".join(error.problems)
    return str(error)
