"""What is simulated: models, their instances, the devices they run on, and service times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from batcher.core.events import (
    DeviceConfigured,
    Event,
    InstanceUp,
    ModelConfigured,
    Profile,
    Shapes,
)
from batcher.core.settings import ModelSettings
from batcher.simulation.engine.service_time import QUIET, Curve, Devices, Noise
from batcher.simulation.policies.named import NamedPolicy
from batcher.simulation.traffic.workload import Traffic


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """One model: its settings, its service times, how many instances it has and on which device."""

    name: str
    settings: ModelSettings
    curve: Curve
    device: str = "device"
    instances: int = 1
    max_in_flight: int = 1
    noise: Noise = QUIET
    warmup_sizes: tuple[int, ...] = ()
    """Batch sizes whose service times its instances measure when they start."""
    copies: Curve = ()
    """How long a batch is copied to its device while another computes; empty where nothing is pipelined."""
    buckets: Mapping[int, Curve] = field(default_factory=dict)
    """Of a padded model the service times by bucket, of which `curve` is the mean. Its settings pad
    axis 1 of input 0 to these lengths, and requests have a length."""

    @property
    def slots(self) -> int:
        """Batches that it could have in flight at once, if its device allows that."""
        return self.instances * self.max_in_flight

    @property
    def reachable(self) -> bool:
        """Whether one row alone is done within the target, or there is no target."""
        alone_ns = self.curve[1] + (self.copies[1] if self.copies else 0)
        return self.settings.target_ns is None or alone_ns <= self.settings.target_ns

    @property
    def row_cost_s(self) -> float:
        """Seconds of one instance for a row, in the batch size with the highest throughput."""
        curve = self.curve
        if self.copies:
            curve = tuple(map(max, curve, self.copies))
        return min(took_ns / rows for rows, took_ns in enumerate(curve) if rows) / 1e9


@dataclass(frozen=True, slots=True)
class Deployment:
    """Models that are served together."""

    models: tuple[SimulatedModel, ...]
    device_limits: Mapping[str, int]
    exclusive: frozenset[str] = frozenset()
    """Devices that run one batch at a time, as a GPU does with kernels that fill it."""

    def under(self, policy: NamedPolicy) -> Deployment:
        """The same deployment with every model's policy replaced."""
        models = tuple(replace(m, settings=policy.settings(m.settings)) for m in self.models)
        return replace(self, models=models)

    def device_slots(self) -> dict[str, int]:
        """How many batches each device can run at once."""
        wanted: dict[str, int] = {}
        for model in self.models:
            wanted[model.device] = wanted.get(model.device, 0) + model.slots
        return {
            device: 1
            if device in self.exclusive
            else min(slots, self.device_limits.get(device, slots))
            for device, slots in wanted.items()
        }

    def capacity(self, traffic: Traffic) -> float:
        """The most requests a second of this traffic that can be served, in the best batch sizes.

        The bottleneck is a device or the instances of a model, whichever is fully used first.
        """
        share = dict(zip(traffic.models.values, traffic.models.shares, strict=True))
        slots = self.device_slots()
        cost_s = dict.fromkeys(slots, 0.0)
        fullest = 0.0
        for model in self.models:
            model_s = share.get(model.name, 0.0) * traffic.mean_rows * model.row_cost_s
            cost_s[model.device] += model_s
            fullest = max(fullest, model_s / model.slots)
        fullest = max(fullest, *(cost_s[device] / slots[device] for device in slots))
        return 1.0 / fullest

    def events(self, devices: Devices | None = None, gap_ns: int = 0) -> Iterator[Event]:
        """The events that start it. With `devices`, instances report what their warm-up measured.

        With a gap, or a time to copy batches, instances may have a prefetched batch.
        """
        for device, limit in self.device_limits.items():
            yield DeviceConfigured(device, limit)
        for model in self.models:
            yield ModelConfigured(model.name, model.settings)
            for name in self.instance_names(model):
                profile: Profile = ()
                buckets: tuple[tuple[Shapes, Profile], ...] = ()
                if devices is not None and model.buckets:
                    buckets = tuple(
                        (((length,),), _warmed_up(model, devices, ((length,),)))
                        for length in model.buckets
                    )
                elif devices is not None:
                    profile = _warmed_up(model, devices, ())
                yield InstanceUp(
                    name,
                    1,
                    model.name,
                    model.device,
                    model.max_in_flight,
                    profile,
                    buckets,
                    prefetches=gap_ns > 0 or bool(model.copies),
                    copies=_copies(model, devices),
                    overlaps=bool(model.copies),
                )

    @staticmethod
    def instance_names(model: SimulatedModel) -> list[str]:
        """The names of a model's instances."""
        return [f"{model.name}#{place}" for place in range(model.instances)]


def _copies(model: SimulatedModel, devices: Devices | None) -> tuple[tuple[Shapes, Profile], ...]:
    """What a warm-up would have measured of copying batches."""
    if devices is None or not model.copies:
        return ()
    measured = tuple((rows, model.copies[rows]) for rows in model.warmup_sizes)
    if not model.buckets:
        return (((), measured),)
    return tuple((((length,),), measured) for length in model.buckets)


def _warmed_up(model: SimulatedModel, devices: Devices, bucket: Shapes) -> Profile:
    """What a warm-up of this bucket would have measured."""
    return tuple((rows, devices.sample_ns(model.name, rows, bucket)) for rows in model.warmup_sizes)
