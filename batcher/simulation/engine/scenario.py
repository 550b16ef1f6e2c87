"""From a configuration to the deployment that is simulated.

Settings, instances, devices and warm-up sizes come from the configuration. Service times are not in
it: they come from a table, a profile, or the options of the executor `emulated`, which are a model
of service times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from batcher.config import Config, ModelConfig, device_limits, format_duration
from batcher.errors import InputError
from batcher.executor import LoadContext, read_options
from batcher.executors.emulated import EmulatedOptions
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.profile import ModelProfile
from batcher.simulation.engine.service_time import QUIET, Curve, Noise, from_table, linear, stepped
from batcher.simulation.traffic.workload import Mix

EMULATED: Final = "emulated"


@dataclass(frozen=True, slots=True)
class Costs:
    """Service times that the configuration does not have.

    A model's table comes before its profile, and both before the options of `emulated`.
    """

    tables: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Batch size to nanoseconds, by a model's name; the entry "" is for all others."""
    profiles: Mapping[tuple[str, str], ModelProfile] = field(default_factory=dict)
    """By a model's name and version."""
    noise: Noise | None = None
    """None means the jitter of `emulated`, and none elsewhere."""


def model_names(config: Config) -> dict[str, ModelConfig]:
    """Every model by its name, or by `name/version` where one name has several versions."""
    names = [model.name for model in config.models]
    return {
        model.name if names.count(model.name) == 1 else f"{model.name}/{model.version}": model
        for model in config.models
    }


def models_of(config: Config, wanted: Mix[str] | None) -> Mix[str]:
    """The models that get requests, and their shares: those that are named, else all with equal shares.

    Raises `InputError` for a name that is not configured.
    """
    known = model_names(config)
    if wanted is None:
        return Mix.of(*((name, 1.0) for name in known))
    for name in wanted.values:
        if name not in known:
            raise InputError(f"--model: got {name!r}; allowed: {', '.join(known)}")
    return wanted


def _aimed(model: ModelConfig, target_ns: int | None) -> ModelConfig:
    """The model with another target, which a limit that is no duration follows.

    Raises `InputError` where its limit is shorter.
    """
    if target_ns is None:
        return model
    limit = model.batching.limit
    if isinstance(limit, int) and limit < target_ns:
        raise InputError(
            f"--target: got {format_duration(target_ns)}; allowed: at most batching.limit of {model.name},"
            f" which is {format_duration(limit)}"
        )
    batching = model.batching.model_copy(update={"target_p99": target_ns})
    return model.model_copy(update={"batching": batching})


def deployment_of(
    config: Config, models: Mix[str], costs: Costs, target_ns: int | None = None
) -> Deployment:
    """The models of `models` as configured, all with `target_ns` where that is given.

    Raises `InputError` where the service times of a model are not known, and `ModelLoadError`
    where the options of `emulated` are wrong.
    """
    known = model_names(config)
    for name in costs.tables:
        if name and name not in models.values:
            allowed = ", ".join(models.values)
            raise InputError(f"--service-times: got the model {name!r}; allowed: {allowed}")
    simulated = []
    for name in models.values:
        model = known[name]
        settings = _aimed(model, target_ns).scheduler_settings()
        curve, copies = _curve(name, model, costs, config)
        simulated.append(
            SimulatedModel(
                name=name,
                settings=settings,
                curve=stepped(curve, model.batching.sizes),
                copies=stepped(copies, model.batching.sizes) if copies else (),
                device=model.device,
                instances=model.instances,
                max_in_flight=model.max_in_flight,
                noise=_noise(model, costs, config),
                warmup_sizes=model.warmup_sizes(),
            )
        )
    used = {model.device for model in simulated}
    return Deployment(
        tuple(simulated),
        {device: limit for device, limit in device_limits(config).items() if device in used},
        exclusive=frozenset(
            known[name].device for name in models.values if known[name].executor == EMULATED
        ),
    )


def _curve(name: str, model: ModelConfig, costs: Costs, config: Config) -> tuple[Curve, Curve]:
    """The times of the device, and those of copying beside it; the latter empty where none are known."""
    most = model.batching.most_rows
    table = costs.tables.get(name, costs.tables.get(""))
    if table is not None:
        return from_table(table, most), ()
    profile = costs.profiles.get((model.name, model.version))
    if profile is not None:
        return from_table(profile.medians_ns(), most), ()
    if costs.profiles:
        measured = ", ".join(f"{name} version {version}" for name, version in costs.profiles)
        raise InputError(f"--profile: has {measured}; model {name!r} is version {model.version}")
    if model.executor != EMULATED:
        raise InputError(
            f"model {name!r}: what a batch takes on the executor {model.executor!r} is not known;"
            " give --profile with what `batcher profile` measured, or --service-times"
        )
    options = _options(model, config)
    if not options.cost_ns(1):
        raise InputError(
            f"model {name!r}: options.base and options.per_row are 0, so batches would take no time;"
            " set a cost above 0, or give --profile or --service-times"
        )
    base_ns, per_row_ns = options.copy_base, options.copy_per_row
    if not model.pipelining:
        return linear(options.base + base_ns, options.per_row + per_row_ns, most), ()
    curve = linear(options.base, options.per_row, most)
    return curve, linear(base_ns, per_row_ns, most) if options.copy_ns(1) else ()


def _noise(model: ModelConfig, costs: Costs, config: Config) -> Noise:
    if costs.noise is not None:
        return costs.noise
    if model.executor == EMULATED:
        return Noise("uniform", _options(model, config).jitter)
    return QUIET


def _options(model: ModelConfig, config: Config) -> EmulatedOptions:
    context = LoadContext(
        model.name,
        model.version,
        0,
        model.device,
        model.batching.max_batch_size,
        model.options,
        config.base_dir_of(model),
    )
    return read_options(context, EmulatedOptions)
