"""The GPUs behind devices, as NVML and GPM tell."""

from __future__ import annotations

from batcher.telemetry.devices.reading import REASONS
from batcher.telemetry.devices.statistics import DeviceState, FailureCause
from batcher.telemetry.families.family import Family, Values, one_of

DEVICE = ("device",)
"""A device's name in the configuration."""

OF_DEVICE = {
    "device": Values("configured names: `models[].device`, `devices`", bound="devices of GPUs")
}

DEVICE_INFO = Family(
    "batcher_device_info",
    "gauge",
    "",
    (*DEVICE, "gpu", "product", "mig"),
    "Always 1; the labels say which GPU (its UUID) or MIG instance (mig is true) a device is. Two devices "
    "that are one GPU have the same values in the families below.",
    values=OF_DEVICE
    | {
        "gpu": Values("UUIDs", bound="devices of GPUs"),
        "product": Values("names of products, as the driver says", bound="devices of GPUs"),
        "mig": one_of("true", "false"),
    },
)
DEVICE_STATISTICS_STATE = Family(
    "batcher_device_statistics_state",
    "gauge",
    "",
    (*DEVICE, "state"),
    "1 for the state of what is known of the device's GPU, 0 for the others: ok, pending (not read yet), no_gpu "
    "(no GPU is known to belong to it), no_library (nvidia-ml-py is not installed), no_driver, no_permission, "
    "not_found, hanging (a call of NVML does not return), lost, error. The log says more.",
    values=OF_DEVICE
    | {
        "state": one_of(*DeviceState),
    },
)
DEVICE_STATISTICS_AGE = Family(
    "batcher_device_statistics_age_seconds",
    "gauge",
    "seconds",
    DEVICE,
    "How long ago the values of the device's GPU were read: about a second, more while its driver is slow or "
    "hangs. After 30 s they are not exported any more. Absent if they never were read.",
    values=OF_DEVICE,
)
DEVICE_FAILED = Family(
    "batcher_device_failed",
    "gauge",
    "",
    (*DEVICE, "cause"),
    "1 for each cause for which the device has failed, which makes its instances unready, 0 for the others: "
    "lost (the GPU is off the bus), reset_required, xid (an error of the hardware), ecc (uncorrectable memory "
    "errors). Absent while nothing is known.",
    values=OF_DEVICE
    | {
        "cause": one_of(*FailureCause),
    },
)
DEVICE_UTILIZATION = Family(
    "batcher_device_utilization_ratio",
    "gauge",
    "ratio",
    (*DEVICE, "source"),
    "Share of the last second or less in which any kernel ran (source nvml), and share of the multiprocessors "
    "that were busy in the last second (source gpm; Hopper and later). The first one can be 1 with room for more.",
    values=OF_DEVICE
    | {
        "source": one_of("nvml", "gpm"),
    },
)
DEVICE_SM_OCCUPANCY = Family(
    "batcher_device_sm_occupancy_ratio",
    "gauge",
    "ratio",
    DEVICE,
    "Share of the warps that the multiprocessors can hold and that were active (GPM; Hopper and later).",
    values=OF_DEVICE,
)
DEVICE_TENSOR_ACTIVITY = Family(
    "batcher_device_tensor_activity_ratio",
    "gauge",
    "ratio",
    DEVICE,
    "Share of the time in which tensor cores were active (GPM; Hopper and later).",
    values=OF_DEVICE,
)
DEVICE_MEMORY_BANDWIDTH = Family(
    "batcher_device_memory_bandwidth_ratio",
    "gauge",
    "ratio",
    DEVICE,
    "Share of the bandwidth of the GPU's memory that was used (GPM; Hopper and later).",
    values=OF_DEVICE,
)
DEVICE_MEMORY_USED = Family(
    "batcher_device_memory_used_bytes",
    "gauge",
    "bytes",
    DEVICE,
    "Memory of the GPU, or MIG instance, that is in use, of all processes.",
    values=OF_DEVICE,
)
DEVICE_MEMORY_TOTAL = Family(
    "batcher_device_memory_total_bytes",
    "gauge",
    "bytes",
    DEVICE,
    "Memory that the GPU, or MIG instance, has.",
    values=OF_DEVICE,
)
DEVICE_POWER = Family(
    "batcher_device_power_watts",
    "gauge",
    "watts",
    DEVICE,
    "Power that the GPU draws, of all processes.",
    values=OF_DEVICE,
)
DEVICE_ENERGY = Family(
    "batcher_device_energy_joules",
    "counter",
    "joules",
    DEVICE,
    "Energy that the GPU has used since its driver was loaded, of all processes.",
    values=OF_DEVICE,
)
DEVICE_TEMPERATURE = Family(
    "batcher_device_temperature_celsius",
    "gauge",
    "celsius",
    DEVICE,
    "Temperature of the GPU.",
    values=OF_DEVICE,
)
DEVICE_CLOCK = Family(
    "batcher_device_clock_hertz",
    "gauge",
    "hertz",
    (*DEVICE, "clock"),
    "Clock of the multiprocessors (sm) and of the memory (memory) now.",
    values=OF_DEVICE
    | {
        "clock": one_of("sm", "memory"),
    },
)
DEVICE_THROTTLED = Family(
    "batcher_device_throttled",
    "gauge",
    "",
    (*DEVICE, "reason"),
    "1 for each reason that keeps the GPU's clocks down now, 0 for the others that it knows: power_cap, "
    "hw_slowdown, sw_thermal_slowdown, hw_thermal_slowdown, hw_power_brake_slowdown, sync_boost, "
    "application_clocks, display_clocks, board_limit, reliability. An idle GPU is no reason.",
    values=OF_DEVICE
    | {
        "reason": one_of(*REASONS),
    },
)
DEVICE_ECC_ERRORS = Family(
    "batcher_device_ecc_errors",
    "counter",
    "errors",
    (*DEVICE, "kind"),
    "Memory errors since the GPU's driver was loaded or the GPU was reset, corrected and uncorrected.",
    values=OF_DEVICE
    | {
        "kind": one_of("corrected", "uncorrected"),
    },
)
DEVICE_XID_EVENTS = Family(
    "batcher_device_xid_events",
    "counter",
    "events",
    (*DEVICE, "xid"),
    "Errors of the GPU that its driver reported while the server ran, by XID. Those after which a GPU has to be "
    "reset are there from the start, others once they are seen; beyond 64 different ones they count as other.",
    values=OF_DEVICE
    | {
        "xid": Values("numbers that the driver reported, and `other`", bound="XIDs of one device"),
    },
)

FAMILIES = (
    DEVICE_INFO,
    DEVICE_STATISTICS_STATE,
    DEVICE_STATISTICS_AGE,
    DEVICE_FAILED,
    DEVICE_UTILIZATION,
    DEVICE_SM_OCCUPANCY,
    DEVICE_TENSOR_ACTIVITY,
    DEVICE_MEMORY_BANDWIDTH,
    DEVICE_MEMORY_USED,
    DEVICE_MEMORY_TOTAL,
    DEVICE_POWER,
    DEVICE_ENERGY,
    DEVICE_TEMPERATURE,
    DEVICE_CLOCK,
    DEVICE_THROTTLED,
    DEVICE_ECC_ERRORS,
    DEVICE_XID_EVENTS,
)
