"""What is offered over what can be served."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from prometheus_client.core import Metric

from batcher.clock import SECOND, Clock
from batcher.core.observation import Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.export import single_values
from batcher.telemetry.families import scale


class ScalePart:
    """Exports the loads that the scheduler computes."""

    families = scale.FAMILIES

    def __init__(self, models: CountedModels, clock: Clock) -> None:
        self._models = models
        self._clock = clock

    def collect(self, observation: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        desired = observation.desired_ratio
        yield single_values(scale.DESIRED_RATIO, [] if desired is None else [((), desired)])
        known = [
            ((each.device,), each.load) for each in observation.devices if each.load is not None
        ]
        yield single_values(scale.DEVICE_LOAD, known)
        yield single_values(
            scale.MODEL_LOAD,
            (
                ((*labels, device), load)
                for labels, model in self._models.observed(observation)
                for device, load in model.device_loads
            ),
        )
        yield single_values(
            scale.DEVICE_HEADROOM, ((labels, 1.0 / load if load else inf) for labels, load in known)
        )
        now_ns, devices = self._clock(), self._models.devices
        yield single_values(
            scale.DEVICE_BUSY,
            (((device,), use.busy.read(now_ns) / SECOND) for device, use in devices.items()),
        )
        yield single_values(
            scale.DEVICE_FILL,
            (
                ((device,), fill)
                for device, use in devices.items()
                if (fill := use.fill(now_ns)) is not None
            ),
        )
