"""GPM: what the counters of Hopper and later GPUs say of the time between two samples."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any, Final

from batcher.telemetry.devices.nvml import Nvml, code_of
from batcher.telemetry.devices.reading import GpuLost, NotInitialized, Target, ratio, translated
from batcher.telemetry.devices.statistics import DeviceStatistics

log = logging.getLogger(__name__)

METRICS: Final = {
    "sm_utilization": "NVML_GPM_METRIC_SM_UTIL",
    "sm_occupancy": "NVML_GPM_METRIC_SM_OCCUPANCY",
    "tensor_activity": "NVML_GPM_METRIC_ANY_TENSOR_UTIL",
    "memory_bandwidth": "NVML_GPM_METRIC_DRAM_BW_UTIL",
}
"""Field of `DeviceStatistics` -> the metric, which NVML gives as a percentage."""


@dataclass(slots=True)
class GpmSamples:
    """The last sample of one GPU or MIG instance, and room for the next one."""

    last: Any
    spare: Any
    filled: bool = False


class Gpm:
    """Samples of all GPUs of one initialization of NVML. Call every method on its thread."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._samples: dict[str, GpmSamples | None] = {}
        """UUID -> its samples; None where there is no GPM."""

    def add_to(self, statistics: DeviceStatistics, target: Target) -> DeviceStatistics:
        """The statistics with what happened since the call before. Raises `GpuLost`, `NotInitialized`."""
        try:
            with translated(self._nvml):
                values = self._since_last(target)
        except (GpuLost, NotInitialized):
            raise
        except Exception as error:  # noqa: BLE001 - one source less
            if "gpm" not in target.said:
                target.said.add("gpm")
                log.debug("%s: no GPM: %s", target.uuid, error)
            if code_of(self._nvml, error) in self._never():
                self._free(target.uuid)
                self._samples[target.uuid] = None
            return statistics
        return replace(statistics, **values)

    def close(self) -> None:
        """Free the samples."""
        for uuid in tuple(self._samples):
            self._free(uuid)

    def _never(self) -> set[int]:
        nvml = self._nvml
        return {
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_NO_PERMISSION,
        }

    def _since_last(self, target: Target) -> dict[str, Any]:
        nvml = self._nvml
        if target.uuid not in self._samples:
            self._samples[target.uuid] = self._make(target)
        samples = self._samples[target.uuid]
        if samples is None:
            return {}
        if target.gpu_instance is None:
            nvml.nvmlGpmSampleGet(target.handle, samples.spare)
        else:
            nvml.nvmlGpmMigSampleGet(target.whole, target.gpu_instance, samples.spare)
        filled, samples.filled = samples.filled, True
        samples.last, samples.spare = samples.spare, samples.last
        return self._between(samples.spare, samples.last) if filled else {}

    def _make(self, target: Target) -> GpmSamples | None:
        nvml = self._nvml
        if not hasattr(nvml, "nvmlGpmSampleAlloc"):
            return None
        if not nvml.nvmlGpmQueryDeviceSupport(target.whole).isSupportedDevice:
            return None
        return GpmSamples(nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc())

    def _between(self, earlier: Any, later: Any) -> dict[str, Any]:
        nvml = self._nvml
        asked = nvml.c_nvmlGpmMetricsGet_t()
        asked.version = nvml.NVML_GPM_METRICS_GET_VERSION
        asked.numMetrics = len(METRICS)
        asked.sample1, asked.sample2 = earlier, later
        for place, metric in enumerate(METRICS.values()):
            asked.metrics[place].metricId = getattr(nvml, metric)
        nvml.nvmlGpmMetricsGet(asked)
        found: dict[str, Any] = {}
        for place, name in enumerate(METRICS):
            metric = asked.metrics[place]
            if metric.nvmlReturn == nvml.NVML_SUCCESS and math.isfinite(metric.value):
                found[name] = ratio(metric.value)
        return found

    def _free(self, uuid: str) -> None:
        samples = self._samples.pop(uuid, None)
        if samples is None:
            return
        for sample in (samples.last, samples.spare):
            try:
                self._nvml.nvmlGpmSampleFree(sample)
            except Exception as error:  # noqa: BLE001 - nothing more can be done
                log.debug("%s: a GPM sample could not be freed: %s", uuid, error)
