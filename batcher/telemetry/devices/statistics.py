"""What is known of the GPU behind a device, and why the rest is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class DeviceState(StrEnum):
    """Whether the statistics of a device are read, and why not."""

    OK = "ok"
    PENDING = "pending"
    """A GPU belongs to it, and was not read yet."""
    NO_GPU = "no_gpu"
    """No GPU is known to belong to it."""
    NO_LIBRARY = "no_library"
    """nvidia-ml-py is not installed."""
    NO_DRIVER = "no_driver"
    """The driver, or its library libnvidia-ml.so.1, is not there."""
    NO_PERMISSION = "no_permission"
    """The process may not use NVML, or not for this GPU."""
    NOT_FOUND = "not_found"
    """NVML has no such GPU, or it cannot be told which one it is."""
    HANGING = "hanging"
    """A call of NVML does not return. Older values are kept for a while, with their age."""
    LOST = "lost"
    """NVML says that the GPU is lost, or has to be reset."""
    ERROR = "error"
    """NVML answers with another error."""


class FailureCause(StrEnum):
    """Why a device has failed, which makes the instances on it unready."""

    LOST = "lost"
    """It has fallen off the bus, or is not accessible any more."""
    RESET_REQUIRED = "reset_required"
    """The driver says that it has to be reset, or the machine restarted."""
    XID = "xid"
    """The driver reported an error of the hardware that ends all that runs on it."""
    ECC = "ecc"
    """Memory errors that could not be corrected."""


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """What NVML said last of the GPU, or MIG instance, behind one device.

    None, and what is missing in a mapping, is not known: the GPU or its driver does not tell it. Units are
    base units; ratios are from 0 to 1.
    """

    device: str
    """The device's name in the configuration."""
    state: DeviceState = DeviceState.NO_GPU
    reason: str = ""
    """Why `state` is not OK, in words; empty if it is."""
    failures: Mapping[FailureCause, str] = field(default_factory=dict)
    """Why the device has failed, in words, by cause; empty while it has not, or nothing is known."""
    age_s: float | None = None
    """Seconds since the values were read; None if they never were."""
    uuid: str = ""
    """`GPU-...` or `MIG-...`; empty while it is not known."""
    product: str = ""
    """Its name, such as `NVIDIA H100 80GB HBM3`."""
    mig: bool = False
    """Whether it is a MIG instance: most values are then not known."""
    utilization: float | None = None
    """Share of the time in which any kernel ran (NVML)."""
    sm_utilization: float | None = None
    """Share of the multiprocessors that were busy (GPM; Hopper and later)."""
    sm_occupancy: float | None = None
    """Share of the warps that could be active and were (GPM)."""
    tensor_activity: float | None = None
    """Share of the time in which tensor cores were active (GPM)."""
    memory_bandwidth: float | None = None
    """Share of the bandwidth of the memory that was used (GPM)."""
    memory_used: int | None = None
    memory_total: int | None = None
    """Bytes."""
    power_w: float | None = None
    energy_j: float | None = None
    """Joules since the driver was loaded."""
    temperature_c: float | None = None
    sm_clock_hz: int | None = None
    memory_clock_hz: int | None = None
    throttle_reasons: Mapping[str, bool] = field(default_factory=dict)
    """Reason -> whether it keeps the clocks down now, for the reasons that the GPU knows."""
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    """Memory errors since the driver was loaded or the GPU was reset."""
    xid_events: Mapping[int, int] | None = None
    """XID -> how often the driver reported it since the server watches; None if it cannot be watched."""
