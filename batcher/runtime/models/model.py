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
"""What a caller is told to wait while a model is not served: it may be loaded by then."""


CLOSE_TIMEOUT_S = 1.0
"""How long an instance may take to close because another one of its model could not load."""


FIRST_RETRY_S = 1.0


LONGEST_RETRY_S = 15.0
"""How long a load waits that is tried again: at first, and at most."""


DRAIN_TIMEOUT_S = 30.0
"""How long batches may run on instances that were replaced by a reload."""


def model_key(name: str, version: str) -> str:
    """The scheduler's name of a model."""
    return f"{name}/{version}"


class ServedModel:
    """One (name, version): settings, instances, and what they say of the model once loaded."""

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
        """Output -> the names of its classes, where it has any."""
        self.telemetry = telemetry
        for plan in plans:
            telemetry.device_known(plan.context.device)
        self.state = ModelState.LOADING
        """The step of its life; `health` also knows how its instances are."""
        self.why = "not loaded yet"
        self.layout = Layout()
        self.padding: Padding | None = None
        """How its variable axes are padded; None where they are not, or nothing is loaded yet."""
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
        """What it can do now: it is ready while it is loaded and some instance is up and well."""
        state, why = self.state, self.why
        if state is ModelState.READY:
            reasons = [instance.why for instance in self._instances]
            if all(reasons):
                state, why = ModelState.UNREADY, reasons[0]
        return ModelHealth(self.name, self.version, state is ModelState.READY, why, state)

    @property
    def ready(self) -> bool:
        """Whether a request would be executed, and with success as far as anybody knows."""
        return self.state is ModelState.READY and not all(i.why for i in self._instances)

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
            resolve_padding(self.name, rules, self._loaded[0])

    def configure(self, settings: ModelSettings, rules: PaddingRules | None = None) -> None:
        """Take new settings: the scheduler, admission checks and statistics, in one turn of the loop.

        `rules` say how variable axes are padded from now on (None: as before); requests that wait
        move to their new buckets. Raises `ChangeFailed` or `ModelLoadError` when that cannot be;
        then nothing has changed.
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
        """Load every instance. Raises the first `ModelLoadError`, with the rest closed again.

        A load that waits for a backend is tried again for as long as `load_retry_timeout` says. A model that
        is ready is loaded anew: see `_reload`. Loads and unloads take turns, but an unload ends a
        load that is under way.
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
                await self._fail(str(error) or "loading was given up")
                raise
            self._serve(metadata)

    async def unload(self, timeout_s: float) -> None:
        """Refuse what waits, let what runs end within `timeout_s`, close the instances."""
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
        """Wait for a load, which `unload` may end: then it has failed."""
        task = self._loading = asyncio.ensure_future(load)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and not (current and current.cancelling()):
                text = f"{self.name}: it was unloaded while it was loading"
                raise UnloadedWhileLoading(text) from None
            task.cancel()
            await asyncio.wait((task,))
            raise
        finally:
            self._loading = None

    async def _reload(self) -> None:
        """Load a second set of instances beside the one that serves, and have it take over.

        Where the load fails, all stays as it was. Where the model takes or gives something else than
        before, what waits is refused, and the old instances end before the new ones begin.
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
                await self._make_way(metadata)
            except (ModelLoadError, asyncio.CancelledError) as error:
                await asyncio.gather(*(i.stop(CLOSE_TIMEOUT_S) for i in fresh))
                await self._fail(str(error) or "loading was given up")
                raise
        self._instances = fresh
        for instance in fresh:
            instance.announce(self._pad)
        self._serve(metadata)
        await asyncio.gather(*(i.stop(DRAIN_TIMEOUT_S) for i in old))

    async def _make_way(self, metadata: ModelMetadata) -> None:
        """End the instances that serve, for others that take or give something else."""
        self._enter(ModelState.LOADING, "another version of its files takes over")
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
        """How an instance that is loading is padded; the scheduler knows before its first batch.

        Raises `ModelLoadError` for a replacement that takes or gives something else than what is
        served: callers' requests were checked against that.
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
        """Settings as the scheduler takes them: with the axes that are padded."""
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
                f"{self.name}: an instance takes or gives other tensors than the others were loaded"
                " with; load the model again"
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
                log.warning("%s: %s; next try in %.1f s", instance.plan.name, error, wait_s)
                if up:
                    self._enter(ModelState.LOADING, f"{error}; it is tried again")
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
