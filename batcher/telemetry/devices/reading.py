"""Reads one GPU, or one MIG instance, through NVML.

What the GPU does not tell is None. Values that cannot be are not believed: NVML answers with the largest number
of a type, or with 0, where it has no value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from batcher.telemetry.devices.nvml import Handle, Nvml, code_of, is_lost, needs_reset
from batcher.telemetry.devices.statistics import DeviceStatistics

log = logging.getLogger(__name__)

T = TypeVar("T")

MEGAHERTZ: Final = 1_000_000

MOST_WATTS: Final = 10_000.0
MOST_DEGREES: Final = 200
MOST_MEGAHERTZ: Final = 20_000
MOST_BYTES: Final = 1 << 50
MOST_COUNTED: Final = 1 << 62
"""Above these a value is none: several times what any GPU has."""

RECOVERY_ACTION: Final = 230
"""The field that says what has to be done before the GPU can be used again (driver 560 and later)."""

REASONS: Final = {
    "application_clocks": 0x2,
    "power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clocks": 0x100,
    "board_limit": 0x200,
    "reliability": 0x400,
}
"""Why the clocks are lower than they could be, by the bit in NVML's answer. An idle GPU (0x1) is none."""


class GpuLost(Exception):
    """NVML says that the GPU is gone, or with `reset` that it has to be reset."""

    def __init__(self, text: str, *, reset: bool = False) -> None:
        super().__init__(text)
        self.reset = reset


class NotInitialized(Exception):
    """NVML has been shut down, by something else in this process."""


@dataclass(slots=True)
class Target:
    """One GPU, or one MIG instance, that is read."""

    uuid: str
    handle: Handle
    whole: Handle
    """The GPU that an instance is part of; else `handle` itself."""
    gpu_instance: int | None = None
    compute_instance: int | None = None
    unsupported: set[str] = field(default_factory=set)
    """What it does not tell, and is not asked again."""
    said: set[str] = field(default_factory=set)
    """What was logged of it once."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read at one time."""

    statistics: DeviceStatistics
    recovery_action: int | None
    """What has to be done before the GPU can be used again: 0 is nothing, None is not known."""
    known: bool
    """Whether anything at all was told."""
    problem: Exception | None
    """The first error of one that tells nothing."""


def read(nvml: Nvml, target: Target) -> Reading:
    """Read everything. Raises `GpuLost` and `NotInitialized`."""
    asked = _Asked(nvml, target)
    handle = target.handle
    used, total = _memory(asked, handle)
    sm_clock = asked.ask("sm_clock", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
    memory_clock = asked.ask("mem_clock", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM)
    power_mw = _within(
        asked.ask("power", nvml.nvmlDeviceGetPowerUsage, handle), 1, MOST_WATTS * 1000
    )
    energy_mj = _within(
        asked.ask("energy", nvml.nvmlDeviceGetTotalEnergyConsumption, handle), 1, MOST_COUNTED
    )
    statistics = DeviceStatistics(
        "",
        utilization=_utilization(asked, handle),
        memory_used=used,
        memory_total=total,
        power_w=None if power_mw is None else power_mw / 1000,
        energy_j=None if energy_mj is None else energy_mj / 1000,
        temperature_c=_within(_temperature(asked, handle), 1, MOST_DEGREES),
        sm_clock_hz=_hertz(sm_clock),
        memory_clock_hz=_hertz(memory_clock),
        throttle_reasons=_reasons(asked, handle),
        ecc_corrected=_ecc(asked, handle, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        ecc_uncorrected=_ecc(asked, handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
    )
    # A list of fields is an answer also where none of them has a value.
    action = _recovery_action(_Asked(nvml, target), target.whole)
    return Reading(statistics, action, asked.answered, asked.problem)


class _Asked:
    """Asks for one value after the other, and remembers what came of it."""

    def __init__(self, nvml: Nvml, target: Target) -> None:
        self.nvml = nvml
        self.answered = False
        self.problem: Exception | None = None
        self._target = target

    def ask(self, name: str, function: Callable[..., T], *arguments: Any) -> T | None:
        """The value, or None. Raises `GpuLost` and `NotInitialized`."""
        if name in self._target.unsupported:
            return None
        try:
            with translated(self.nvml):
                value = function(*arguments)
        except (GpuLost, NotInitialized):
            raise
        except Exception as error:  # noqa: BLE001 - one value that is missing is no reason to lose the others
            self._missing(name, error)
            return None
        self.answered = True
        return value

    def _missing(self, name: str, error: Exception) -> None:
        nvml, target = self.nvml, self._target
        never = {nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND}
        if code_of(nvml, error) in never:
            target.unsupported.add(name)
        else:
            self.problem = self.problem or error
        if name not in target.said:
            target.said.add(name)
            log.debug("%s: no %s: %s", target.uuid, name, error)


@contextmanager
def translated(nvml: Nvml) -> Iterator[None]:
    """Errors that concern the whole GPU, or NVML itself, as exceptions of this module."""
    try:
        yield
    except Exception as error:
        if is_lost(nvml, error) or needs_reset(nvml, error):
            raise GpuLost(str(error), reset=needs_reset(nvml, error)) from error
        if code_of(nvml, error) == nvml.NVML_ERROR_UNINITIALIZED:
            raise NotInitialized(str(error)) from error
        raise


def ratio(percent: float | None) -> float | None:
    """A percentage as a ratio; None for what is none."""
    # Not a number is not within.
    if percent is None or not 0 <= percent <= 100:
        return None
    return percent / 100


def _within(value: float | None, least: float, most: float) -> float | None:
    return value if value is not None and least <= value <= most else None


def _hertz(megahertz: int | None) -> int | None:
    if megahertz is None or not 1 <= megahertz <= MOST_MEGAHERTZ:
        return None
    return megahertz * MEGAHERTZ


def _utilization(asked: _Asked, handle: Handle) -> float | None:
    rates = asked.ask("utilization", asked.nvml.nvmlDeviceGetUtilizationRates, handle)
    return None if rates is None else ratio(rates.gpu)


def _memory(asked: _Asked, handle: Handle) -> tuple[int | None, int | None]:
    """Bytes used and bytes in all; what the driver keeps for itself is not used, where NVML tells it apart."""
    nvml = asked.nvml
    info: Any = None
    version = getattr(nvml, "nvmlMemory_v2", None)
    if version is not None:
        info = asked.ask("memory_v2", nvml.nvmlDeviceGetMemoryInfo, handle, version)
    if info is None:
        info = asked.ask("memory", nvml.nvmlDeviceGetMemoryInfo, handle)
    if info is None:
        return None, None
    used, total = int(info.used), int(info.total)
    if not 0 < total <= MOST_BYTES:
        return None, None
    return (used if used <= total else None), total


def _temperature(asked: _Asked, handle: Handle) -> float | None:
    nvml = asked.nvml
    newer = getattr(nvml, "nvmlDeviceGetTemperatureV", None)
    value = None
    if newer is not None:
        value = asked.ask("temperature_v", newer, handle, nvml.NVML_TEMPERATURE_GPU)
    if value is None:
        older = nvml.nvmlDeviceGetTemperature
        value = asked.ask("temperature", older, handle, nvml.NVML_TEMPERATURE_GPU)
    return value


def _reasons(asked: _Asked, handle: Handle) -> dict[str, bool]:
    """Reason -> whether it holds, for those that the GPU knows."""
    supported = _bits(asked, handle, "Supported")
    current = _bits(asked, handle, "Current")
    if current is None:
        return {}
    known = sum(REASONS.values()) if supported is None else supported
    return {name: bool(current & bit) for name, bit in REASONS.items() if bit & known}


def _bits(asked: _Asked, handle: Handle, which: str) -> int | None:
    nvml = asked.nvml
    value: int | None = None
    for word in ("Event", "Throttle"):  # drivers before 535 have the older name alone
        name = f"nvmlDeviceGet{which}Clocks{word}Reasons"
        function = getattr(nvml, name, None)
        if value is None and function is not None:
            value = asked.ask(name, function, handle)
    return value


def _ecc(asked: _Asked, handle: Handle, kind: int) -> int | None:
    nvml = asked.nvml
    total = nvml.nvmlDeviceGetTotalEccErrors
    count = asked.ask(f"ecc_{kind}", total, handle, kind, nvml.NVML_VOLATILE_ECC)
    return count if count is not None and 0 <= count <= MOST_COUNTED else None


def _recovery_action(asked: _Asked, handle: Handle) -> int | None:
    nvml = asked.nvml
    name = "recovery_action"
    values = asked.ask(name, nvml.nvmlDeviceGetFieldValues, handle, [RECOVERY_ACTION])
    if values is None or values[0].nvmlReturn != nvml.NVML_SUCCESS:
        return None
    action = int(values[0].value.uiVal)
    return action if action <= MOST_ACTIONS else None


MOST_ACTIONS: Final = 255
"""More than there will be kinds of recovery."""
