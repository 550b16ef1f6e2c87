"""Serves the models that their sources want: loads, loads again, unloads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from batcher import triton
from batcher.config import Config, DeviceConfig, ModelConfig, gpus_of, limits_of, loads_again
from batcher.core.events import DeviceConfigured
from batcher.errors import (
    BackendUnavailable,
    BatcherError,
    Draining,
    ModelUnavailable,
    NotSupported,
    UnknownModel,
    UnloadedWhileLoading,
    describe,
    shown,
)
from batcher.lifecycle.building import Builder
from batcher.lifecycle.managed import ManagedModel
from batcher.lifecycle.wanted import (
    ChangeResult,
    KnownModel,
    LoadParameters,
    ModelChange,
    ModelRepository,
    Source,
    WantedModel,
)
from batcher.runtime.instances.plan import ProcessContext
from batcher.runtime.models.model import ServedModel
from batcher.runtime.models.registry import ModelRegistry
from batcher.telemetry import Telemetry

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class ModelManager:
    """Serves the models that their sources want. Call every method on the event loop's thread.

    Loads, unloads and removals of one model run one at a time, those of different models at the same
    time, each in a task of its own that goes on when its caller leaves.
    """

    def __init__(
        self,
        config: Config,
        builder: Builder[Any],
        registry: ModelRegistry,
        process: ProcessContext,
        telemetry: Telemetry,
    ) -> None:
        """Build the models of the configuration file; load nothing. Raises `StartupError`."""
        self.repository: ModelRepository | None = None
        """Where models come from that the configuration file does not have."""
        self._builder = builder
        self._registry = registry
        self._process = process
        self._telemetry = telemetry
        self._devices: Mapping[str, DeviceConfig] = config.devices
        self._limits: dict[str, int] = {}
        self._models: dict[tuple[str, str], ManagedModel] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._starting = True
        self._began = self._closed = False
        for wanted in _of_file(config):
            self._add(wanted, Source.FILE).build_first()

    # The life of the server

    async def start(self) -> None:
        """Load the models of the configuration file. Raises the first `ModelLoadError`."""
        self._began = True
        self._limit_devices()
        try:
            async with asyncio.TaskGroup() as group:
                for model in tuple(self._models.values()):
                    group.create_task(self._load_first(model))
        except BaseExceptionGroup as failures:
            first: BaseException = failures
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None

    def started(self) -> None:
        """Note that the start is over: models that come later do not decide whether the server is ready."""
        self._starting = False

    async def close(self) -> None:
        """End every load, drain and unload, and close all models; what is unanswered fails."""
        self._closed = True
        models = tuple(self._models.values())
        await asyncio.gather(*(model.close() for model in models))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Sources

    async def serve(self, source: Source, models: Sequence[WantedModel]) -> tuple[ModelChange, ...]:
        """See `ServesModels.serve`."""
        if self._closed:
            return ()
        tasks = self._begin(source, models, again=False)
        return tuple(await asyncio.gather(*(asyncio.shield(task) for task in tasks)))

    def follow(self, config: Config) -> None:
        """Begin to serve what the configuration file says; what could not be loaded is tried again."""
        self._devices = config.devices
        self._process.devices.configure(gpus_of(config.devices))
        self._begin(Source.FILE, _of_file(config), again=True)
        self._limit_devices()

    def _begin(
        self, source: Source, models: Sequence[WantedModel], *, again: bool
    ) -> list[asyncio.Task[ModelChange]]:
        wanted = {model.identity: model for model in models}
        gone = [
            model
            for identity, model in self._models.items()
            if model.source is source and identity not in wanted and not model.removed
        ]
        changes = [self._change(source, model, again=again) for model in wanted.values()]
        for model in gone:
            model.forget()
        return [self._run(change) for change in (*changes, *map(self._remove, gone))]

    def _change(
        self, source: Source, wanted: WantedModel, *, again: bool
    ) -> Coroutine[Any, Any, ModelChange]:
        """Decide what one model needs, end what it does not need any more, and return how to do it."""
        model = self._models.get(wanted.identity)
        if model is not None and model.source is not source and not model.removed:
            other = f"the model is served already, as the {_SOURCES[model.source]} says"
            log.error("%s version %s is not served: %s", *wanted.identity, other)
            return _done(wanted, ChangeResult.FAILED, other)
        if model is None:
            model = self._add(wanted, source)
        elif model.removed:
            model.revive(source)
        else:
            result = self._settled(model, wanted, source, again=again)
            if result is not None:
                return _done(wanted, result)
            model.end_load("the model was changed again while it was loading")
        model.wanted = wanted
        return self._load(model, wanted)

    def _settled(
        self, model: ManagedModel, wanted: WantedModel, source: Source, *, again: bool
    ) -> ChangeResult | None:
        """What became of a model for which nothing has to be loaded; None if it has to be."""
        if model.loading_as is not None and model.wanted == wanted:
            return ChangeResult.UNCHANGED
        if model.unloaded and source is Source.FILE:
            # An admin call unloaded it, and only another one loads it.
            return model.configure(wanted)
        if model.wanted == wanted and not again:
            return ChangeResult.FAILED if model.failed_as else ChangeResult.UNCHANGED
        if (
            not model.serves
            or model.incomplete
            or model.failed_as is not None
            or model.served_as.contents != wanted.contents
            or model.served_as.base_dir != wanted.base_dir
            or loads_again(model.served_as.config, wanted.config)
            or not _fits(model.served, wanted.config)
        ):
            return None
        if model.loading_as is not None:
            model.end_load("the model was changed back while it was loading")
        try:
            return model.configure(wanted)
        except BatcherError as error:
            log.warning("%s version %s cannot be configured: %s", *wanted.identity, error)
            return None

    # Admin calls

    async def load(self, name: str, parameters: LoadParameters) -> None:
        """Load every version of a model, or load it again.

        Raises `UnknownModel`; `NotSupported` for parameters where no repository takes them; what the
        repository raises; and `ModelUnavailable` if a version cannot be loaded.
        """
        self._check_open()
        models = self._versions(name)
        of_file = [model for model in models if model.source is Source.FILE]
        if of_file:
            if parameters:
                raise NotSupported(
                    f"{name}: the model is loaded as the configuration file says; parameters of a load are"
                    " for models of a model repository, leave them out"
                )
            loads = [(m, m.failed_as or m.served_as) for m in of_file]
        elif self.repository is not None:
            wanted = await self.repository.load(name, parameters)
            loads = [(self._of_repository(each), each) for each in wanted]
        else:
            raise self._unknown(name)
        tasks = [self._run(self._load(model, wanted)) for model, wanted in loads]
        loaded = self._run(self._loads_ended(name, tasks, tell=not of_file))
        changes = await asyncio.shield(loaded)
        failed = [change.reason for change in changes if change.result is ChangeResult.FAILED]
        if failed:
            raise ModelUnavailable("; ".join(failed))

    async def unload(self, name: str) -> None:
        """Unload every version of a model, after it has answered what it accepted.

        Raises `UnknownModel`, and what the repository raises.
        """
        self._check_open()
        models = self._versions(name)
        if self.repository is not None and all(m.source is Source.REPOSITORY for m in models):
            await self.repository.unload(name)
        elif not models:
            raise self._unknown(name)
        tasks = [self._run(self._unload(model)) for model in models]
        await asyncio.gather(*(asyncio.shield(task) for task in tasks))

    def load_again(self, key: str) -> None:
        """Load a model again, because its backend has another interface than the generation `key`.

        Nothing is done where that generation does not serve, or a load is in progress.
        """
        for model in self._models.values():
            served = model.served
            if served is not None and served.key == key and model.serves and not self._closed:
                if not model.removed and model.loading_as is None:
                    self._run(self._load(model, model.served_as))
                return

    def known(self) -> Sequence[KnownModel]:
        """The models that a repository has and that are not served."""
        found = () if self.repository is None else self.repository.known()
        return [each for each in found if (each.name, each.version) not in self._models]

    # Settings in force

    def configurations(self) -> Sequence[ModelConfig]:
        """The configuration in force of each model."""
        return [m.served_as.config for m in self._models.values() if not m.removed]

    def of_file(self) -> Sequence[ModelConfig]:
        """Those of the models that the configuration file has."""
        return [
            model.served_as.config
            for model in self._models.values()
            if model.source is Source.FILE and not model.removed
        ]

    def configurable(self, name: str, version: str) -> ServedModel | None:
        """The generation that gets new requests."""
        model = self._models.get((name, version))
        return None if model is None or model.removed else model.served

    def configured(self, config: ModelConfig) -> None:
        """Note that a model's settings are now those of `config`, which loads nothing again."""
        self._models[config.name, config.version].configured(config)

    def generations(self) -> dict[str, ModelConfig]:
        """What the scheduler calls each generation -> the configuration that it has."""
        return {
            served.key: wanted.config
            for model in self._models.values()
            for served, wanted in model.generations()
        }

    # One change of one model

    def _run(self, change: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Make a change in a task of its own, so that none is left half done when its caller leaves."""
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load_first(self, model: ManagedModel) -> None:
        log.info("loading %s version %s with %s", model.name, model.version, _executor(model))
        try:
            await model.load_first()
        except UnloadedWhileLoading:
            # By an admin call; the other models are served.
            log.warning(
                "%s version %s was unloaded while it was loading", model.name, model.version
            )

    async def _loads_ended(
        self, name: str, loads: Sequence[asyncio.Task[ModelChange]], *, tell: bool
    ) -> Sequence[ModelChange]:
        """Wait for the loads of an admin call, and tell the repository of them."""
        changes = await asyncio.gather(*loads)
        if tell and self.repository is not None:
            await self.repository.loaded(name, changes)
        return changes

    def _load(self, model: ManagedModel, wanted: WantedModel) -> Coroutine[Any, Any, ModelChange]:
        """Load a model, unless it is ended from now on."""
        return self._loaded(model, wanted, model.ended)

    async def _loaded(self, model: ManagedModel, wanted: WantedModel, ended: int) -> ModelChange:
        log.info("loading %s version %s with %s", *wanted.identity, wanted.config.executor)
        try:
            result = await model.load(wanted, ended)
        except BatcherError as error:
            log.warning("%s version %s could not be loaded: %s", *wanted.identity, error)
            unavailable = isinstance(error, BackendUnavailable)
            return ModelChange(*wanted.identity, ChangeResult.FAILED, str(error), unavailable)
        except Exception as error:
            log.exception("internal error: %s version %s could not be loaded", *wanted.identity)
            return ModelChange(*wanted.identity, ChangeResult.FAILED, describe(error))
        return ModelChange(*wanted.identity, result)

    async def _unload(self, model: ManagedModel) -> ModelChange:
        await model.unload()
        log.info("%s version %s was unloaded by an admin call", model.name, model.version)
        return ModelChange(model.name, model.version, ChangeResult.REMOVED)

    async def _remove(self, model: ManagedModel) -> ModelChange:
        if await model.remove():
            log.info("%s version %s is not served any more", model.name, model.version)
            del self._models[model.name, model.version]
            self._limit_devices()
        return ModelChange(model.name, model.version, ChangeResult.REMOVED)

    # Helpers

    def _add(self, wanted: WantedModel, source: Source) -> ManagedModel:
        model = ManagedModel(
            wanted,
            source,
            self._builder,
            self._registry,
            self._telemetry,
            self._changed,
            required=self._starting,
        )
        self._models[wanted.identity] = model
        return model

    def _of_repository(self, wanted: WantedModel) -> ManagedModel:
        model = self._models.get(wanted.identity) or self._add(wanted, Source.REPOSITORY)
        if model.removed:
            model.revive(Source.REPOSITORY)
        model.wanted = wanted
        return model

    def _versions(self, name: str) -> list[ManagedModel]:
        if not name:
            raise UnknownModel("the request names no model; set model_name")
        found = [m for m in self._models.values() if m.name == name and not m.removed]
        return sorted(found, key=lambda model: int(model.version), reverse=True)

    def _unknown(self, name: str) -> UnknownModel:
        known = ", ".join(dict.fromkeys(m.name for m in self._models.values() if not m.removed))
        return UnknownModel(
            f"unknown model {shown(name)}; known models: {known or 'none'}",
            triton=triton.unknown_to_repository(name),
        )

    def _check_open(self) -> None:
        if self._closed:
            raise Draining("the server is shutting down; models cannot be changed any more")

    def _changed(self) -> None:
        self._limit_devices()
        self._process.changed()

    def _limit_devices(self) -> None:
        """Tell the scheduler how many batches may run at once on each device."""
        if self._closed or not self._began:
            return
        limits = limits_of(self.generations().values(), self._devices)
        for device in self._limits.keys() | limits.keys():
            if self._limits.get(device) != limits.get(device):
                self._limit_device(device, limits.get(device))
        self._limits = limits

    def _limit_device(self, device: str, most: int | None) -> None:
        if self._process.turns is not None:
            self._process.turns.limit(device, most)
        else:
            self._process.runner.feed(DeviceConfigured(device, most))


_SOURCES: Final = {Source.FILE: "configuration file", Source.REPOSITORY: "model repository"}


def _of_file(config: Config) -> list[WantedModel]:
    return [
        WantedModel(model, config.base_dir, f"models[{place}].")
        for place, model in enumerate(config.models)
    ]


def _executor(model: ManagedModel) -> str:
    return model.wanted.config.executor


def _fits(model: ServedModel | None, config: ModelConfig) -> bool:
    """Whether the loaded instances can take batches of this size."""
    if model is None:
        return not config.batching.max_batch_size
    try:
        rows = model.fitted(config).batching.max_batch_size
    except ValueError:
        return False
    largest = model.largest_batch
    return bool(rows) is bool(largest) and rows <= largest


async def _done(wanted: WantedModel, result: ChangeResult, reason: str = "") -> ModelChange:
    return ModelChange(*wanted.identity, result, reason)
