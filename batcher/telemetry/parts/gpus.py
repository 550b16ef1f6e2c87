"""The GPUs behind devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.core import Metric

from batcher.core.observation import Observation
from batcher.telemetry.devices import DeviceState, DeviceStatistics, FailureCause
from batcher.telemetry.devices.faults import ECC_XID, FATAL, LOST_XID
from batcher.telemetry.devices.records import OTHER_XID
from batcher.telemetry.export import Labels, Point, single_values
from batcher.telemetry.families import Family, gpus

_FROM_THE_START: Final = dict.fromkeys((*FATAL, LOST_XID, ECC_XID), 0)
"""XIDs that are there before they were seen, so that `increase()` sees the first one."""

_GAUGES: Final[tuple[tuple[Family, Callable[[DeviceStatistics], float | None]], ...]] = (
    (gpus.DEVICE_SM_OCCUPANCY, lambda each: each.sm_occupancy),
    (gpus.DEVICE_TENSOR_ACTIVITY, lambda each: each.tensor_activity),
    (gpus.DEVICE_MEMORY_BANDWIDTH, lambda each: each.memory_bandwidth),
    (gpus.DEVICE_MEMORY_USED, lambda each: each.memory_used),
    (gpus.DEVICE_MEMORY_TOTAL, lambda each: each.memory_total),
    (gpus.DEVICE_POWER, lambda each: each.power_w),
    (gpus.DEVICE_ENERGY, lambda each: each.energy_j),
    (gpus.DEVICE_TEMPERATURE, lambda each: each.temperature_c),
)


class GpusPart:
    """Exports what was read last of the GPU of each device; reads nothing itself."""

    families = gpus.FAMILIES

    def __init__(self, devices: Callable[[], Sequence[DeviceStatistics]]) -> None:
        self._devices = devices

    def collect(self, observation: Observation) -> Iterator[Metric]:  # noqa: ARG002 - it is not the scheduler's
        """As `Part` says."""
        reports = self._devices()
        found = [each for each in reports if each.uuid]
        yield single_values(gpus.DEVICE_INFO, [(_info(each), 1) for each in found])
        yield single_values(
            gpus.DEVICE_STATISTICS_STATE,
            [
                ((each.device, state), int(each.state is state))
                for each in reports
                for state in DeviceState
            ],
        )
        yield single_values(
            gpus.DEVICE_STATISTICS_AGE,
            [((each.device,), each.age_s) for each in found if each.age_s is not None],
        )
        yield single_values(
            gpus.DEVICE_FAILED,
            [
                ((each.device, cause), int(cause in each.failures))
                for each in found
                for cause in FailureCause
            ],
        )
        yield single_values(gpus.DEVICE_UTILIZATION, _utilization(found))
        for family, of in _GAUGES:
            values = [((each.device,), of(each)) for each in found]
            yield single_values(family, _known(values))
        yield from _by_label(found)


def _info(each: DeviceStatistics) -> Labels:
    return each.device, each.uuid, each.product, str(each.mig).lower()


def _utilization(found: Sequence[DeviceStatistics]) -> Iterator[Point]:
    for each in found:
        if each.utilization is not None:
            yield (each.device, "nvml"), each.utilization
        if each.sm_utilization is not None:
            yield (each.device, "gpm"), each.sm_utilization


def _by_label(found: Sequence[DeviceStatistics]) -> Iterator[Metric]:
    clocks = [
        ((each.device, clock), hertz)
        for each in found
        for clock, hertz in (("sm", each.sm_clock_hz), ("memory", each.memory_clock_hz))
    ]
    yield single_values(gpus.DEVICE_CLOCK, _known(clocks))
    yield single_values(
        gpus.DEVICE_THROTTLED,
        [
            ((each.device, reason), int(holds))
            for each in found
            for reason, holds in each.throttle_reasons.items()
        ],
    )
    errors = [
        ((each.device, kind), count)
        for each in found
        for kind, count in (
            ("corrected", each.ecc_corrected),
            ("uncorrected", each.ecc_uncorrected),
        )
    ]
    yield single_values(gpus.DEVICE_ECC_ERRORS, _known(errors))
    yield single_values(
        gpus.DEVICE_XID_EVENTS,
        [
            ((each.device, "other" if xid == OTHER_XID else str(xid)), count)
            for each in found
            if each.xid_events is not None
            for xid, count in _xids(each.xid_events).items()
        ],
    )


def _xids(counted: Mapping[int, int]) -> dict[int, int]:
    return _FROM_THE_START | dict(counted)


def _known(points: Sequence[tuple[Labels, float | None]]) -> list[Point]:
    return [(labels, value) for labels, value in points if value is not None]
