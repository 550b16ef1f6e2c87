"""What is served: models, their state, and how a name finds one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum

from batcher.core.events import ModelConfigured, ModelRemoved
from batcher.core.settings import ModelSettings
from batcher.errors import ModelLoadError, ModelUnavailable, UnknownModel
from batcher.executor import ModelMetadata
from batcher.runtime.instances import Home, Instance, InstancePlan
from batcher.runtime.layout import Layout, layout_of
from batcher.runtime.padding import NOTHING_PADDED, Padding, PaddingRules, resolve
from batcher.runtime.signature import Signature
from batcher.telemetry import ModelTelemetry

RETRY_UNAVAILABLE_NS = 1_000_000_000
"""What a caller is told to wait while a model is not served: it may be loaded by then."""

CLOSE_TIMEOUT_S = 1.0
"""How long an instance may take to close because another one of its model could not load."""


class ModelState(StrEnum):
    """Where a model is between its configuration and its service."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADED = "unloaded"


class ServedModel:
    """One (name, version): settings, instances, and what they say of the model once loaded."""

    def __init__(
        self,
        name: str,
        version: str,
        executor: str,
        settings: ModelSettings,
        plans: Sequence[InstancePlan],
        home: Home,
        telemetry: ModelTelemetry,
        padding: PaddingRules = NOTHING_PADDED,
    ) -> None:
        self.name = name
        self.version = version
        self.key = model_key(name, version)
        self.executor = executor
        self.settings = settings
        self.telemetry = telemetry
        self.state = ModelState.UNLOADED
        self.why = "not loaded yet"
        self.layout = Layout()
        self.padding: Padding | None = None
        """How its variable axes are padded; None where they are not, or nothing is loaded yet."""
        self.rules = padding
        self._home = home
        self._instances = [
            Instance(plan, home, telemetry, self._pad, lambda: self.settings.max_batch_size)
            for plan in plans
        ]
        self._loaded: tuple[ModelMetadata, Signature] | None = None
        self._changing = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether a request could be executed: loaded, and some instance is up."""
        return self.state is ModelState.READY and any(i.up for i in self._instances)

    @property
    def instance_count(self) -> int:
        """How many instances are configured."""
        return len(self._instances)

    @property
    def device(self) -> str:
        """The device its instances are on."""
        return self._instances[0].plan.context.device

    @property
    def metadata(self) -> ModelMetadata:
        """What the executor said when it loaded. Raises `ModelUnavailable` before that."""
        return self._require()[0]

    @property
    def signature(self) -> Signature:
        """What a request must look like. Raises `ModelUnavailable` unless it can be served."""
        loaded = self._require()
        if self.state is not ModelState.READY:
            raise self._unavailable()
        return loaded[1]

    @property
    def max_batch_size(self) -> int:
        """The most rows of a batch; 0 where the model has no batch axis."""
        return self.settings.max_batch_size if self.largest_batch else 0

    @property
    def largest_batch(self) -> int:
        """The most rows that its instances were made for: `max_batch_size` cannot exceed it.

        0 where the model was loaded as one without a batch axis.
        """
        return min(i.plan.context.max_batch_size for i in self._instances)

    def check_padding(self, rules: PaddingRules) -> None:
        """Raise `ModelLoadError` naming what of the rules does not fit the model, once it is known."""
        if self._loaded is not None:
            resolve(self.name, rules, self._loaded[0])

    def configure(self, settings: ModelSettings, rules: PaddingRules | None = None) -> None:
        """Take new settings: the scheduler, the gate and the records, in one turn of the loop.

        `rules` say how variable axes are padded from now on (None: as before); requests that wait
        move to their new buckets. Raises `ChangeFailed` or `ModelLoadError` when that cannot be;
        then nothing has changed.
        """
        if rules is None:
            rules = self.rules
        loaded, before, padding = self._loaded, self.padding, None
        if loaded is not None:
            padding = resolve(self.name, rules, loaded[0])
        self.padding = padding
        try:
            if self.state in {ModelState.LOADING, ModelState.READY}:
                self._home.runner.configure(self._configured(settings))
        except BaseException:
            self.padding = before
            raise
        self.settings, self.rules = settings, rules
        if loaded is not None:
            self._loaded = loaded[0], self._signature(loaded[0])

    async def load(self) -> None:
        """Load every instance. Raises the first `ModelLoadError`, with the rest closed again.

        A model that is ready stays as it is. Loads and unloads take turns.
        """
        async with self._changing:
            if self.state is ModelState.READY:
                return
            self.state, self.why = ModelState.LOADING, "loading"
            self._home.runner.feed(self._configured(self.settings))
            try:
                metadata = await self._load_instances()
            except (ModelLoadError, asyncio.CancelledError) as error:
                await self._fail(str(error) or "loading was given up")
                raise
            self.layout = layout_of(metadata)
            self._loaded = metadata, self._signature(metadata)
            self.state, self.why = ModelState.READY, ""

    async def unload(self, timeout_s: float) -> None:
        """Refuse what waits, let what runs end within `timeout_s`, close the instances."""
        async with self._changing:
            if self.state is ModelState.UNLOADED:
                return
            self.state, self.why = ModelState.UNLOADED, "unloaded"
            self._home.runner.feed(ModelRemoved(self.key))
            await self._stop_instances(timeout_s)

    def _pad(self, metadata: ModelMetadata) -> Padding | None:
        """How an instance that is loading is padded; the scheduler knows before its first batch."""
        before = self._configured(self.settings)
        self.padding = resolve(self.name, self.rules, metadata)
        after = self._configured(self.settings)
        if after != before:
            self._home.runner.feed(after)
        return self.padding

    def _configured(self, settings: ModelSettings) -> ModelConfigured:
        """Settings as the scheduler takes them: with the axes that are padded."""
        if self.padding is not None:
            settings = replace(settings, padding=self.padding.axes)
        return ModelConfigured(self.key, settings)

    def _signature(self, metadata: ModelMetadata) -> Signature:
        return Signature(self.name, metadata, self.settings.max_request_rows, self.padding)

    async def _load_instances(self) -> ModelMetadata:
        tasks = [asyncio.create_task(instance.load()) for instance in self._instances]
        try:
            return (await asyncio.gather(*tasks))[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _fail(self, why: str) -> None:
        self.state, self.why = ModelState.FAILED, why
        self._home.runner.feed(ModelRemoved(self.key))
        await self._stop_instances(CLOSE_TIMEOUT_S)

    async def _stop_instances(self, timeout_s: float) -> None:
        await asyncio.gather(*(i.stop(timeout_s) for i in self._instances))

    def _require(self) -> tuple[ModelMetadata, Signature]:
        if self._loaded is None:
            raise self._unavailable()
        return self._loaded

    def _unavailable(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"{self.name}: version {self.version} is not ready: {self.why}",
            retry_after_ns=RETRY_UNAVAILABLE_NS,
        )


def model_key(name: str, version: str) -> str:
    """The scheduler's name of a model."""
    return f"{name}/{version}"


class ModelRegistry:
    """All configured models, found by name and version; iterates in configuration order."""

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
        """The model of that name; without a version, the newest ready one, else the newest.

        Raises `UnknownModel` naming what there is.
        """
        if version:
            model = self._models.get((name, version))
            if model is not None:
                return model
        versions = self._versions.get(name)
        if versions is None:
            raise UnknownModel(f"unknown model {name!r}; served are {', '.join(self._versions)}")
        if version:
            known = ", ".join(m.version for m in versions)
            raise UnknownModel(f"{name}: unknown version {version!r}; served are {known}")
        if len(versions) == 1:
            return versions[0]
        return next((m for m in versions if m.ready), versions[0])

    def versions(self, name: str) -> list[str]:
        """The versions of a model, newest first. Raises `UnknownModel`."""
        self.find(name)
        return [m.version for m in self._versions[name]]
