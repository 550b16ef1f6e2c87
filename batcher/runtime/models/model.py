"""One generation of a served model: its settings, its instances and what they say of it once loaded.

A generation is loaded once, serves, drains and is closed. A load of a model that is served makes another
generation beside it (`batcher.lifecycle`); requests stay with the generation that they were validated
against. For the scheduler each is a model of its own: `name/version`, then `name/version~2` and so on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from batcher import triton
from batcher.clock import SECOND
from batcher.config import ExecutorBatches, ModelConfig, SequenceConfig
from batcher.core.events import InstancesFailed, ModelConfigured, ModelRemoved
from batcher.core.settings import ModelSettings
from batcher.errors import BackendUnavailable, InterfaceChanged, ModelLoadError, ModelUnavailable
from batcher.executor import ModelMetadata
from batcher.runtime.health import InstanceState, ModelHealth, ModelState, why_unwell
from batcher.runtime.instances.instance import Instance
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.interface.labels import Labels
from batcher.runtime.interface.layout import Layout, layout_of
from batcher.runtime.interface.padding import Padding
from batcher.runtime.interface.padding_rules import (
    NOTHING_PADDED,
    PaddingRules,
    read_padding_rules,
)
from batcher.runtime.interface.resolve_padding import resolve_padding
from batcher.runtime.interface.signature import Signature
from batcher.runtime.sequences import SequenceInterface, resolve_sequence
from batcher.telemetry import ModelTelemetry
from batcher.telemetry.budget import Hop
from batcher.telemetry.sequences import SequenceCounts

log = logging.getLogger(__name__)


RETRY_UNAVAILABLE_NS = 1_000_000_000
"""The retry hint (nanoseconds) in a refusal while a model is not ready; it may be loaded by then."""


CLOSE_TIMEOUT_S = 1.0
"""Seconds that an instance may take to close when nothing is to be answered any more."""


FIRST_RETRY_S = 1.0


LONGEST_RETRY_S = 2.0
"""Seconds before a load that found its backend unavailable is repeated: at first, and at most. A replica that starts
beside its model is late by half of it on average, and a try is a connection and a question."""


def model_key(name: str, version: str, generation: int = 1) -> str:
    """The name of a generation in events, commands and logs: `name/version`, later `name/version~2`."""
    return f"{name}/{version}" if generation == 1 else f"{name}/{version}~{generation}"


class ServedModel:
    """One generation of a model name and version: settings, instances, and metadata once loaded.

    Call every method on the event loop's thread. After `load` has failed, and after `close`, nothing of
    it is left but what it says of itself.
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
        generation: int = 1,
        sequence: SequenceConfig | None = None,
        config: ModelConfig | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.generation = generation
        self.key = model_key(name, version, generation)
        self.executor = executor
        self.settings = settings
        self.config = config
        """What it was made from and tuned to since; None without a configuration."""
        self._backend = ExecutorBatches()
        """The most rows that its backend takes, and the sizes that it prefers."""
        self.labels = labels or {}
        """Output -> the names of its classes, for outputs that have a `labels` file."""
        self.telemetry = telemetry
        for plan in plans:
            telemetry.device_known(plan.context.device)
        self.state = ModelState.LOADING
        """Its lifecycle state; `health` also considers the state of its instances."""
        self.why = "not loaded yet"
        self.note = ""
        """What is to be said of it while it is ready: that a load beside it has failed, and why."""
        self.replaces = ""
        """The key of the generation that it replaces, as far as it does."""
        self.beside: ServedModel | None = None
        """The generation that is being loaded to replace it."""
        self.required = True
        """Whether the server is ready only while this model is."""
        self.first_answer_due = True
        """Whether no request has been answered yet."""
        self.layout = Layout()
        self.padding: Padding | None = None
        """How its variable axes are padded; None if they are not, or before the first load."""
        self.rules = padding
        self.sequences: SequenceInterface | None = None
        """Its state and controls; None if it has no section `sequence`, or before the first load."""
        self._sequence = sequence
        self._process = process
        self._instances = [
            Instance(
                plan,
                process,
                telemetry,
                self._pad,
                lambda: self.settings.max_batch_size,
                self._instance_stays_down,
            )
            for plan in plans
        ]
        self._loaded: tuple[ModelMetadata, Signature] | None = None
        self._known = False
        """Whether the scheduler has it."""

    @property
    def health(self) -> ModelHealth:
        """Its state now: ready while it is loaded and at least one instance is up and healthy."""
        state, why = self.state, self.why
        instances = tuple([instance.health for instance in self._instances])
        unwell = why_unwell(instances)
        if state is ModelState.READY and not self.ready:
            state, why = ModelState.UNREADY, unwell
        ready = state is ModelState.READY
        if self.beside is not None:
            ready_why = f"generation {self.beside.generation} is being loaded: {self.beside.why}"
        else:
            ready_why = self.note or unwell
        if ready:
            why = ready_why
        return ModelHealth(self.name, self.version, ready, why, state, self.required, instances)

    @property
    def ready(self) -> bool:
        """Whether it is loaded and at least one instance is up and healthy."""
        return self.state is ModelState.READY and not all(i.why for i in self._instances)

    @property
    def some_up(self) -> bool:
        """Whether an instance is up."""
        return any(instance.up for instance in self._instances)

    @property
    def complete(self) -> bool:
        """Whether every instance is up."""
        return all(instance.up for instance in self._instances)

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
    def device_failure(self) -> str:
        """Why that device has failed; empty if it has not, or nothing is known."""
        return self._process.devices.failure(self.device)

    @property
    def metadata(self) -> ModelMetadata:
        """What the executor returned from `load`. Raises `ModelUnavailable` before the first load."""
        return self._require()[0]

    @property
    def client_metadata(self) -> ModelMetadata:
        """The same as clients see it: without the state and controls of sequences."""
        loaded = self._require()[0]
        return loaded if self.sequences is None else self.sequences.clients

    @property
    def signature(self) -> Signature:
        """Validates requests. Raises `ModelUnavailable` unless the model is ready."""
        loaded = self._require()
        if self.state is not ModelState.READY:
            raise self._unavailable()
        return loaded[1]

    @property
    def any_signature(self) -> Signature:
        """Validates requests that go on while no others are accepted: the steps of open sequences."""
        return self._require()[1]

    @property
    def sequence_counts(self) -> SequenceCounts:
        """Where its sequences are counted."""
        return self.telemetry.has_sequences()

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

    def fitted(self, config: ModelConfig) -> ModelConfig:
        """The configuration for the batches that its backend takes, as far as that is known by now.

        Raises `ValueError` if it asks for more, or for other buckets where the executor has those alone
        that it was loaded with.
        """
        if self._loaded is not None and self._loaded[0].fixed_buckets:
            loaded = self._instances[0].plan.context.buckets
            if read_padding_rules(config, "").buckets != loaded:
                raise ValueError(
                    "padding: got other buckets than those that the model was loaded with; its executor can"
                    f" execute these alone ({loaded}). A change of the configuration file loads it again"
                )
        return config.fitted(self._backend)

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
            if self._known:
                self._process.runner.configure(self._configured(settings))
        except BaseException:
            self.padding = before
            raise
        self.settings, self.rules = settings, rules
        self.tell_telemetry()
        if loaded is not None:
            self._loaded = loaded[0], self._signature(loaded[0])
            self._tell_buckets(loaded[0])

    # Its life

    async def load(self) -> None:
        """Load every instance, then serve. Raises the first `ModelLoadError`, after closing the others.

        A load whose backend is unavailable is repeated for `load_retry_timeout`.
        """
        self._begin()
        try:
            self._loaded = await self._load_instances()
            self._tell_buckets(self._loaded[0])
        except BaseException as error:
            await self._fail(str(error) or "its load was cancelled")
            raise
        self.serve()

    def _instance_stays_down(self) -> None:
        """An instance is loaded no more: what waits is refused once that holds for all."""
        if all(each.state is InstanceState.FAILED for each in self._instances):
            self._process.runner.feed(InstancesFailed(self.key))

    async def load_instance(self, place: int) -> None:
        """Load one instance, which runs batches at once. Call `serve` when enough of them are up.

        Raises `ModelLoadError`; then close the model.
        """
        self._begin()
        metadata = await self._load_instance(self._instances[place])
        if self._loaded is None:
            self._loaded = metadata, self._signature(metadata)
        self._check_same(metadata, self._loaded[0])
        self._tell_buckets(metadata)

    def _tell_buckets(self, metadata: ModelMetadata) -> None:
        """Have replacements load with the buckets of now, which may be others than at the first load.

        Raises `ModelLoadError` if they have changed meanwhile, and the executor executes no others.
        """
        buckets = self.rules.buckets
        for instance in self._instances:
            plan = instance.plan
            if plan.context.buckets == buckets:
                continue
            if metadata.fixed_buckets and instance.up:
                raise ModelLoadError(
                    f"model {self.name!r}: padding was changed while it was loaded, and its executor executes"
                    " only the buckets that it was loaded with; load it again"
                )
            instance.plan = replace(plan, context=replace(plan.context, buckets=buckets))

    async def stop_instance(self, place: int, timeout_s: float) -> None:
        """Let what runs on one instance end within `timeout_s` seconds, then close it."""
        await self._instances[place].stop(timeout_s)

    def serve(self) -> None:
        """Be ready: what is loaded is enough."""
        self.layout = layout_of(self.metadata)
        self.enter(ModelState.READY, "")

    def enter(self, state: ModelState, why: str) -> None:
        """Be in this state. In any but READY new requests are refused; accepted ones go on."""
        self.state, self.why = state, why
        self._process.changed()

    async def drained(self) -> None:
        """Wait until everything that it has accepted has ended: its sequences, and then its requests."""
        await self._process.runner.sequences.closed(self.key)
        await self._process.runner.drained(self.key)

    async def drain(self, timeout_s: float) -> None:
        """Answer what it has accepted, within `timeout_s` seconds, then close; what is left is refused.

        When this coroutine is cancelled, nothing is waited for.
        """
        ends_s = self._process.loop.time() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self.drained()
        except TimeoutError:
            log.warning(
                "%s: requests are unanswered after %g s of draining (drain_timeout); they are refused, and"
                " sequences that are open are lost",
                self.key,
                timeout_s,
            )
        await self.close(max(CLOSE_TIMEOUT_S, ends_s - self._process.loop.time()))

    async def close(self, timeout_s: float) -> None:
        """Refuse what waits, let running batches end within `timeout_s` seconds, close all instances."""
        if self._known:
            self._known = False
            self._keep_counts()
            self._process.runner.sequences.drop(self.key, "its model was unloaded or loaded again")
            self._process.runner.feed(ModelRemoved(self.key))
        await asyncio.gather(*(instance.stop(timeout_s) for instance in self._instances))

    def _begin(self) -> None:
        if not self._known:
            self.enter(ModelState.LOADING, "loading")
            self._known = True
            self.tell_telemetry()
            self._process.runner.feed(self._configured(self.settings))

    def tuned(self, config: ModelConfig) -> None:
        """Note that it is configured as `config` says from now on."""
        self.config = config
        self.tell_telemetry()

    def tell_telemetry(self) -> None:
        """Count by its settings, unless another generation serves: that one's hold until this one does."""
        if self.telemetry.serving not in {"", self.key}:
            return
        self.telemetry.tells_tenants_apart(name for name, _ in self.settings.queue.tenants)
        budget = None if self.config is None else self.config.budget
        shares = {} if budget is None else budget.shares()
        self.telemetry.splits_target({Hop(hop): share_ns for hop, share_ns in shares.items()})

    async def _fail(self, why: str) -> None:
        self.enter(ModelState.FAILED, why)
        await self.close(CLOSE_TIMEOUT_S)

    def _keep_counts(self) -> None:
        """Keep what the scheduler has counted, before it forgets this generation."""
        for observed in self._process.runner.observe().models:
            if observed.model == self.key:
                self.telemetry.generation_ends(observed)

    def _pad(self, metadata: ModelMetadata) -> Padding | None:
        """How a loading instance is padded. Tells the scheduler, before the instance's first batch.

        Raises `ModelLoadError` for a replacement whose interface differs from the served one, which
        waiting requests were validated against.
        """
        if self.state is ModelState.READY and self._loaded is not None:
            self._check_same(metadata, self._loaded[0])
        self.sequences = resolve_sequence(self.name, self._sequence, metadata)
        if self.sequences is not None:
            self.telemetry.has_sequences()
        before = self._configured(self.settings)
        self._backend = ExecutorBatches(
            metadata.max_batch_size, metadata.preferred_batch_sizes, metadata.batch_sizes
        )
        if self.config is not None and self._loaded is None:
            self.settings = self.fitted(self.config).scheduler_settings()
        self.padding = resolve_padding(self.name, self.rules, metadata)
        if self.padding is not None or self.settings.batch_sizes:
            self.telemetry.filled_up()
        after = self._configured(self.settings)
        if after != before and self._known:
            self._process.runner.feed(after)
        return self.padding

    def _configured(self, settings: ModelSettings) -> ModelConfigured:
        """The event that gives the scheduler these settings and the padded axes."""
        if self.padding is not None:
            settings = replace(settings, padding=self.padding.axes)
        return ModelConfigured(self.key, settings, self.replaces)

    def _signature(self, metadata: ModelMetadata) -> Signature:
        supplied = frozenset[str]() if self.sequences is None else self.sequences.supplied
        most = self.settings.max_request_rows
        return Signature(self.name, metadata, most, self.padding, supplied)

    async def _load_instances(self) -> tuple[ModelMetadata, Signature]:
        tasks = [asyncio.create_task(self._load_instance(each)) for each in self._instances]
        try:
            loaded = await asyncio.gather(*tasks)
            for metadata in loaded:
                self._check_same(metadata, loaded[0])
            return loaded[0], self._signature(loaded[0])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _check_same(self, metadata: ModelMetadata, served: ModelMetadata) -> None:
        if replace(metadata, platform="", properties={}) != replace(
            served, platform="", properties={}
        ):
            raise InterfaceChanged(
                f"{self.name}: an instance has other inputs or outputs than the first one had; the"
                " model's files may have changed: load the model again"
            )

    async def _load_instance(self, instance: Instance) -> ModelMetadata:
        loop, delay_s = self._process.loop, FIRST_RETRY_S
        ends_s = loop.time() + instance.plan.load_retry_ns / SECOND
        while True:
            try:
                return await instance.load()
            except BackendUnavailable as error:
                wait_s = min(delay_s, ends_s - loop.time())
                if wait_s <= 0:
                    raise
                log.warning("%s: %s; trying again in %.1f s", instance.plan.name, error, wait_s)
                if self.state is ModelState.LOADING:
                    self.enter(ModelState.LOADING, f"{error}; trying again")
            await asyncio.sleep(wait_s)
            delay_s = min(2 * delay_s, LONGEST_RETRY_S)

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
