"""Makes the served models that configurations describe; loads nothing."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batcher import plugins
from batcher.config import ExecutorBatches, ModelConfig
from batcher.errors import ModelLoadError, StartupError
from batcher.executor import AsyncExecutor, Executor, LoadContext
from batcher.executor.classes import ExecutorPath
from batcher.lifecycle import WantedModel
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.instances.replacement import RestartPlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.interface.labels import Labels, read_labels
from batcher.runtime.interface.padding_rules import read_padding_rules
from batcher.runtime.models.model import ServedModel, model_key
from batcher.telemetry import Telemetry

MakeExecutor = Callable[[], Executor | AsyncExecutor | ExecutorPath]


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """What a model needs before it is built: everything that takes time to find."""

    wanted: WantedModel
    make_executor: MakeExecutor
    labels: Mapping[str, Labels] = field(default_factory=dict)


class ModelBuilder:
    """Builds generations of models."""

    def __init__(self, process: ProcessContext, telemetry: Telemetry) -> None:
        self._process = process
        self._telemetry = telemetry
        self._importing = threading.Lock()

    def prepare(self, wanted: WantedModel) -> PreparedModel:
        """Import or locate the executor, and read the labels. Blocks; may be called on any thread.

        Raises `PluginError` if the executor is unknown or broken, and `ModelLoadError` if it cannot
        say how it serves this model, or a `labels` file cannot be read.
        """
        config = wanted.config
        # Python's import system drops its caches on one thread at a time only.
        with self._importing:
            # The executor may have been installed since the process began.
            importlib.invalidate_caches()
            make_executor = executor_maker(config, wanted.base_dir)
        labels = {
            name: read_labels(config.name, file) for name, file in config.label_files().items()
        }
        return PreparedModel(wanted, make_executor, labels)

    def unprepared(self, wanted: WantedModel, error: StartupError) -> PreparedModel:
        """A model that could not be prepared: its load fails with this error."""

        def fail() -> Executor:
            raise ModelLoadError(str(error))

        return PreparedModel(wanted, fail)

    def build(self, prepared: PreparedModel, generation: int) -> ServedModel:
        """A generation of a model, not yet loaded. Its padding rules were validated with its section."""
        wanted = prepared.wanted
        config = wanted.config
        key = model_key(config.name, config.version, generation)
        plans = [
            instance_plan(config, index, prepared.make_executor, wanted.base_dir, key)
            for index in range(config.instances)
        ]
        return ServedModel(
            config.name,
            config.version,
            config.executor,
            config.scheduler_settings(),
            plans,
            self._process,
            self._telemetry.model(key, config.name, config.version),
            read_padding_rules(config, wanted.where),
            prepared.labels,
            generation,
            config.sequence,
            config,
        )


def executor_maker(config: ModelConfig, base_dir: Path) -> MakeExecutor:
    """What makes the model's executors; with `isolation: process` only children import their class.

    Raises `PluginError` or `ModelLoadError`.
    """
    if config.isolation == "process":
        path = plugins.locate_executor(config.executor)
        return lambda: path
    return serving_executor(config, base_dir)


def serving_executor(config: ModelConfig, base_dir: Path) -> type[Executor] | type[AsyncExecutor]:
    """The class of the model's executor for this model. Raises `PluginError` or `ModelLoadError`."""
    executor = plugins.find_executor(config.executor)
    return plugins.for_model(executor, instance_plan(config, 0, executor, base_dir).context)


def _slots(config: ModelConfig) -> int:
    """How many sequences an instance keeps state for."""
    sequence = config.sequence
    return sequence.max_sequences if sequence and sequence.strategy == "slot" else 0


def _fitted(config: ModelConfig, batches: ExecutorBatches) -> ModelConfig:
    """The configuration for the batches that the executor takes. Raises `ModelLoadError`."""
    try:
        return config.fitted(batches)
    except ValueError as error:
        raise ModelLoadError(f"model {config.name!r}: {error}") from error


def instance_plan(
    config: ModelConfig,
    index: int,
    executor: MakeExecutor,
    base_dir: Path,
    key: str = "",
    asked: tuple[int, ...] | None = None,
) -> InstancePlan:
    """How to load instance number `index` of a model; `key` is that of its generation.

    `asked` are the batch sizes that the configuration itself names, where `config` was fitted to an
    executor's.
    """
    key = key or model_key(config.name, config.version)
    return InstancePlan(
        name=f"{key}#{index}",
        key=key,
        context=LoadContext(
            model=config.name,
            version=config.version,
            instance=index,
            device=config.device,
            max_batch_size=config.batching.max_batch_size,
            options=config.options,
            base_dir=base_dir,
            batched={each.input: each.batched for each in config.inputs},
            sequence_slots=_slots(config),
            batch_sizes=config.batching.sizes if asked is None else asked,
            buckets=read_padding_rules(config, "").buckets,
        ),
        make_executor=executor,
        max_in_flight=config.max_in_flight,
        execute_timeout_ns=config.execute_timeout,
        warmup=WarmupPlan(config.warmup_sizes(), config.warmup.length, config.warmup.inputs),
        fail_nan=config.on_nan == "fail",
        isolation=config.isolation,
        pipelining=config.pipelining,
        load_retry_ns=config.load_retry_timeout,
        load_timeout_ns=config.load_timeout,
        checks=HealthCheckPlan(
            config.health.interval,
            config.health.timeout,
            config.health.failure_threshold,
            config.health.restart_after if config.isolation == "process" else None,
        ),
        restart=RestartPlan(
            config.restart.backoff,
            config.restart.max_backoff,
            config.restart.limit,
            config.restart.window,
        ),
        max_abandoned_threads=config.max_abandoned_threads,
        fit=lambda batches: instance_plan(
            _fitted(config, batches), index, executor, base_dir, key, config.batching.sizes
        ),
        batch_sizes=config.batching.sizes,
    )
