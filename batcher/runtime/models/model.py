"""One served model: its settings, its instances and what they say of it once loaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from batcher import triton
from batcher.clock import SECOND
from batcher.core.events import ModelConfigured, ModelRemoved
from batcher.core.settings import ModelSettings
from batcher.errors import (
    BackendUnavailable,
    ModelLoadError,
    ModelUnavailable,
    UnloadedWhileLoading,
)
from batcher.executor import ModelMetadata
from batcher.runtime.health import ModelHealth, ModelState
from batcher.runtime.instances.instance import Instance
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.interface.labels import Labels
from batcher.runtime.interface.layout import Layout, layout_of
from batcher.runtime.interface.padding import Padding
from batcher.runtime.interface.padding_rules import NOTHING_PADDED, PaddingRules
from batcher.runtime.interface.resolve_padding import resolve_padding
from batcher.runtime.interface.signature import Signature
from batcher.telemetry import ModelTelemetry

log = logging.getLogger(__name__)


RETRY_UNAVAILABLE_NS = 1_000_000_000
"""The retry hint (nanoseconds) in a refusal while a model is not ready; it may be loaded by then."""


CLOSE_TIMEOUT_S = 1.0
"""Seconds that an instance may take to close after another one of its model failed to load."""


FIRST_RETRY_S = 1.0


LONGEST_RETRY_S = 15.0
"""Seconds before a load that found its backend unavailable is repeated: at first, and at most."""


DRAIN_TIMEOUT_S = 30.0
"""Seconds that batches may still run on instances which a reload replaced."""


def model_key(name: str, version: str) -> str:
    """The name of a model in events, commands and logs: `name/version`."""
    return f"{name}/{version}"


class ServedModel:
    """One model name and version: its settings, its instances, and its metadata once loaded.

    Call every method on the event loop's thread.
    """

    def __init__(
        self,
        name: str,
        version: str,
        executor: str,
        settings: ModelSettings,
        plans: Sequence[InstancePlan],
        process: ProcessContext,
        telemetry: ModelTelemetry,
        padding: PaddingRules = NOTHING_PADDED,
        labels: Mapping[str, Labels] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.key = model_key(name, version)
        self.executor = executor
        self.settings = settings
        self.labels = labels or {}
        """Output -> the names of its classes, for outputs that have a `labels` file."""
        self.telemetry = telemetry
        for plan in plans:
            telemetry.device_known(plan.context.device)
        self.state = ModelState.LOADING
        """Its lifecycle state; `health` also considers the state of its instances."""
        self.why = "not loaded yet"
        self.layout = Layout()
        self.padding: Padding | None = None
        """How its variable axes are padded; None if they are not, or before the first load."""
        self.rules = padding
        self._process = process
        self._plans = tuple(plans)
        self._instances = [self._instance(plan, self._pad) for plan in plans]
        self._generation = 1
        self._loaded: tuple[ModelMetadata, Signature] | None = None
        self._changing = asyncio.Lock()
        self._loading: asyncio.Task[ModelMetadata] | None = None

    @property
    def health(self) -> ModelHealth:
        """Its state now: ready while it is loaded and at least one instance is up and healthy."""
        state, why = self.state, self.why
        if state is ModelState.READY:
            reasons = [instance.why for instance in self._instances]
            if all(reasons):
                state, why = ModelState.UNREADY, reasons[0]
        return ModelHealth(self.name, self.version, state is ModelState.READY, why, state)

    @property
    def ready(self) -> bool:
        """Whether it is loaded and at least one instance is up and healthy."""
        return self.state is ModelState.READY and not all(i.why for i in self._instances)

    @property
    def instance_count(self) -> int:
        """The configured number of instances."""
        return len(self._instances)

    @property
    def takes_raw(self) -> bool:
        """Whether its executor takes inputs as they are on the wire."""
        return self._instances[0].takes_raw

    @property
    def device(self) -> str:
        """The device its instances are on."""
        return self._instances[0].plan.context.device

    @property
    def metadata(self) -> ModelMetadata:
        """What the executor returned from `load`. Raises `ModelUnavailable` before the first load."""
        return self._require()[0]

    @property
    def signature(self) -> Signature:
        """Validates requests. Raises `ModelUnavailable` unless the model is ready."""
        loaded = self._require()
        if self.state is not ModelState.READY:
            raise self._unavailable()
        return loaded[1]

    @property
    def max_batch_size(self) -> int:
        """The maximum rows of a batch; 0 for a model without a batch axis."""
        return self.settings.max_batch_size if self.largest_batch else 0

    @property
    def largest_batch(self) -> int:
        """The `max_batch_size` that its instances were loaded with, which settings cannot exceed.

        0 if the model was loaded without a batch axis.
        """
        return min(i.plan.context.max_batch_size for i in self._instances)

    def check_padding(self, rules: PaddingRules) -> None:
        """Raise `ModelLoadError` if the rules do not suit the loaded model; its message lists why."""
        if self._loaded is not None:
            resolve_padding(self.name, rules, self._loaded[0])

    def configure(self, settings: ModelSettings, rules: PaddingRules | None = None) -> None:
        """Apply new settings to the scheduler, to validation and to statistics, in one loop turn.

        `rules` say how variable axes are padded from now on (None: as before); waiting requests
        move to their new buckets. Raises `ChangeFailed` or `ModelLoadError`; then nothing changed.
        """
        if rules is None:
            rules = self.rules
        loaded, before, padding = self._loaded, self.padding, None
        if loaded is not None:
            padding = resolve_padding(self.name, rules, loaded[0])
        self.padding = padding
        try:
            if self.state in {ModelState.LOADING, ModelState.READY}:
                self._process.runner.configure(self._configured(settings))
        except BaseException:
            self.padding = before
            raise
        self.settings, self.rules = settings, rules
        if loaded is not None:
            self._loaded = loaded[0], self._signature(loaded[0])

    async def load(self) -> None:
        """Load every instance. Raises the first `ModelLoadError`, after closing the others.

        A load whose backend is unavailable is repeated for `load_retry_timeout`. A ready model is reloaded
        (`_reload`). Loads and unloads run one at a time, but an unload ends a load in progress.
        """
        async with self._changing:
            if self.state is ModelState.READY:
                await self._reload()
                return
            self._enter(ModelState.LOADING, "loading")
            self._process.runner.feed(self._configured(self.settings))
            try:
                metadata = await self._loaded_by(self._load_instances(self._instances))
            except (ModelLoadError, asyncio.CancelledError) as error:
                await self._fail(str(error) or "its load was cancelled")
                raise
            self._serve(metadata)

    async def unload(self, timeout_s: float) -> None:
        """Refuse waiting requests, let running batches end within `timeout_s` seconds, then close."""
        if self._loading is not None:
            self._loading.cancel()
        async with self._changing:
            if self.state is ModelState.UNLOADED:
                return
            self._enter(ModelState.UNLOADED, "unloaded")
            self._process.runner.feed(ModelRemoved(self.key))
            await self._stop_instances(timeout_s)

    def _enter(self, state: ModelState, why: str) -> None:
        self.state, self.why = state, why
        self._process.changed()

    def _serve(self, metadata: ModelMetadata) -> None:
        self.layout = layout_of(metadata)
        self._loaded = metadata, self._signature(metadata)
        self._enter(ModelState.READY, "")

    async def _loaded_by(self, load: Coroutine[Any, Any, ModelMetadata]) -> ModelMetadata:
        """Wait for a load. Raises `UnloadedWhileLoading` if `unload` ended it."""
        task = self._loading = asyncio.ensure_future(load)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and not (current and current.cancelling()):
                text = f"{self.name}: the model was unloaded while it was loading"
                raise UnloadedWhileLoading(text) from None
            task.cancel()
            await asyncio.wait((task,))
            raise
        finally:
            self._loading = None

    async def _reload(self) -> None:
        """Load a second set of instances, then switch over to it.

        If that load fails, the first set goes on serving. If the inputs or outputs differ from
        those before, waiting requests are refused and the first set stops before the second starts.
        """
        self._generation += 1
        old, rules = self._instances, self.rules
        fresh = [
            self._instance(
                replace(plan, name=f"{plan.name}.{self._generation}"),
                lambda metadata: resolve_padding(self.name, rules, metadata),
            )
            for plan in self._plans
        ]
        try:
            metadata = await self._loaded_by(self._load_instances(fresh, up=False))
        except (ModelLoadError, asyncio.CancelledError):
            await asyncio.gather(*(i.stop(CLOSE_TIMEOUT_S) for i in fresh))
            raise
        if self._loaded is None or metadata != self._loaded[0]:
            try:
                await self._stop_before_switch(metadata)
            except (ModelLoadError, asyncio.CancelledError) as error:
                await asyncio.gather(*(i.stop(CLOSE_TIMEOUT_S) for i in fresh))
                await self._fail(str(error) or "its load was cancelled")
                raise
        self._instances = fresh
        for instance in fresh:
            instance.announce(self._pad)
        self._serve(metadata)
        await asyncio.gather(*(i.stop(DRAIN_TIMEOUT_S) for i in old))

    async def _stop_before_switch(self, metadata: ModelMetadata) -> None:
        """Stop the serving instances, because those that replace them have another interface."""
        self._enter(ModelState.LOADING, "it is being reloaded with other inputs or outputs")
        self._process.runner.feed(ModelRemoved(self.key))
        await self._stop_instances(DRAIN_TIMEOUT_S)
        self.padding = resolve_padding(self.name, self.rules, metadata)
        self._process.runner.feed(self._configured(self.settings))

    def _instance(
        self, plan: InstancePlan, pad: Callable[[ModelMetadata], Padding | None]
    ) -> Instance:
        return Instance(
            plan, self._process, self.telemetry, pad, lambda: self.settings.max_batch_size
        )

    def _pad(self, metadata: ModelMetadata) -> Padding | None:
        """How a loading instance is padded. Tells the scheduler, before the instance's first batch.

        Raises `ModelLoadError` for a replacement whose interface differs from the served one, which
        waiting requests were validated against.
        """
        if self.state is ModelState.READY and self._loaded is not None:
            self._check_same(metadata, self._loaded[0])
        before = self._configured(self.settings)
        self.padding = resolve_padding(self.name, self.rules, metadata)
        if self.padding is not None:
            self.telemetry.padded()
        after = self._configured(self.settings)
        if after != before:
            self._process.runner.feed(after)
        return self.padding

    def _configured(self, settings: ModelSettings) -> ModelConfigured:
        """The event that gives the scheduler these settings and the padded axes."""
        if self.padding is not None:
            settings = replace(settings, padding=self.padding.axes)
        return ModelConfigured(self.key, settings)

    def _signature(self, metadata: ModelMetadata) -> Signature:
        return Signature(self.name, metadata, self.settings.max_request_rows, self.padding)

    async def _load_instances(
        self, instances: Sequence[Instance], *, up: bool = True
    ) -> ModelMetadata:
        tasks = [asyncio.create_task(self._load_instance(each, up=up)) for each in instances]
        try:
            loaded = await asyncio.gather(*tasks)
            for metadata in loaded:
                self._check_same(metadata, loaded[0])
            return loaded[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _check_same(self, metadata: ModelMetadata, served: ModelMetadata) -> None:
        if replace(metadata, platform="", properties={}) != replace(
            served, platform="", properties={}
        ):
            raise ModelLoadError(
                f"{self.name}: an instance has other inputs or outputs than the first one had; the"
                " model's files may have changed: load the model again"
            )

    async def _load_instance(self, instance: Instance, *, up: bool) -> ModelMetadata:
        loop, delay_s = self._process.loop, FIRST_RETRY_S
        ends_s = loop.time() + instance.plan.load_retry_ns / SECOND
        while True:
            try:
                return await instance.load(up=up)
            except BackendUnavailable as error:
                wait_s = min(delay_s, ends_s - loop.time())
                if wait_s <= 0:
                    raise
                log.warning("%s: %s; trying again in %.1f s", instance.plan.name, error, wait_s)
                if up:
                    self._enter(ModelState.LOADING, f"{error}; trying again")
            await asyncio.sleep(wait_s)
            delay_s = min(2 * delay_s, LONGEST_RETRY_S)

    async def _fail(self, why: str) -> None:
        self._enter(ModelState.FAILED, why)
        self._process.runner.feed(ModelRemoved(self.key))
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
            triton=triton.model_unavailable(self.name, self.version),
        )
