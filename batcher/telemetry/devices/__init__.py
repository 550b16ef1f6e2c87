"""Statistics of the GPUs behind devices, and whether they have failed."""

from batcher.telemetry.devices.statistics import DeviceState, DeviceStatistics, FailureCause
from batcher.telemetry.devices.watcher import DeviceWatcher

__all__ = ["DeviceState", "DeviceStatistics", "DeviceWatcher", "FailureCause"]
