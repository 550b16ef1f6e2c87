"""Statistics of the GPUs behind devices, and whether they have failed.

    configuration, executors ──> DeviceWatcher ── wanted ──> Reader (a thread) ──> NVML
                                     ^                          │
    metrics, load report, page ──────┤ report(device)           │ Record: what was read last, faults
    instances <── told: failed ──────┴──────────────────────────┘

NVML may be missing, forbidden, slow, or hang for good, and a GPU may fall off the bus: none of that may stop a
scrape or a request. So nothing but the thread of `Reader` calls it, and everything else reads what is there, with
its age. What is not known is None, never 0.

| module | what it has |
|---|---|
| `statistics` | what is told of a device |
| `watcher` | the event loop's side |
| `reader`, `session`, `records` | the thread; one initialization of NVML; what outlives it |
| `reading`, `gpm`, `events` | one GPU's values, its counters (Hopper and later), its XID events |
| `faults` | when a GPU has failed, and when it has not any more |
| `inventory` | which GPU a number, a UUID or a PCI bus id means, for NVML and for CUDA |
| `nvml` | nvidia-ml-py, and what its errors mean |
"""

from batcher.telemetry.devices.statistics import DeviceState, DeviceStatistics, FailureCause
from batcher.telemetry.devices.watcher import Claim, DeviceWatcher

__all__ = ["Claim", "DeviceState", "DeviceStatistics", "DeviceWatcher", "FailureCause"]
