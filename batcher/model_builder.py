"""Makes the served models that a configuration describes; loads nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from batcher import plugins
from batcher.config import Config, ModelConfig
from batcher.executor import AsyncExecutor, Executor, LoadContext
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.interface.labels import read_labels
from batcher.runtime.interface.padding_rules import read_padding_rules
from batcher.runtime.models.model import ServedModel, model_key
from batcher.telemetry import Telemetry


def build_models(
    config: Config, process: ProcessContext, telemetry: Telemetry
) -> list[ServedModel]:
    """The models of a configuration, not yet loaded, in its order.

    Raises `PluginError` if an executor is unknown or broken, and `ModelLoadError` if a `labels` file
    cannot be read.
    """
    return [
        _build(model, f"models[{place}].", config.base_dir, process, telemetry)
        for place, model in enumerate(config.models)
    ]


def _build(
    config: ModelConfig, path: str, base_dir: Path, process: ProcessContext, telemetry: Telemetry
) -> ServedModel:
    """One model; `path` is where it stands in the configuration."""
    executor = plugins.find_executor(config.executor)
    plans = [instance_plan(config, index, executor, base_dir) for index in range(config.instances)]
    key = model_key(config.name, config.version)
    return ServedModel(
        config.name,
        config.version,
        config.executor,
        config.scheduler_settings(),
        plans,
        process,
        telemetry.model(key, config.name, config.version),
        read_padding_rules(config, path),
        {name: read_labels(config.name, file) for name, file in config.label_files().items()},
    )


def recorded_settings(config: Config) -> dict[str, dict[str, Any]]:
    """Model -> the settings that decide how it is scheduled, for the head of an event log."""
    kept = {"batching", "queue"}
    return {
        model_key(model.name, model.version): model.model_dump(mode="json", include=kept)
        for model in config.models
    }


def instance_plan(
    config: ModelConfig,
    index: int,
    executor: Callable[[], Executor | AsyncExecutor],
    base_dir: Path,
) -> InstancePlan:
    """How to load instance number `index` of a model."""
    key = model_key(config.name, config.version)
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
        ),
        make_executor=executor,
        max_in_flight=config.max_in_flight,
        execute_timeout_ns=config.execute_timeout,
        warmup=WarmupPlan(config.warmup_sizes(), config.warmup.length, config.warmup.inputs),
        fail_nan=config.on_nan == "fail",
        load_retry_ns=config.load_retry_timeout,
        checks=HealthCheckPlan(
            config.health.interval, config.health.timeout, config.health.failure_threshold
        ),
    )
