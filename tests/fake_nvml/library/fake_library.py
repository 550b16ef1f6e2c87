"""The functions of libnvidia-ml.so.1 that batcher has nvidia-ml-py call, answered from a `Machine`."""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fake_nvml import FakeGpu, FakeMig, Machine

GPM = {2: "gpm_sm", 3: "gpm_occupancy", 5: "gpm_tensor", 10: "gpm_bandwidth"}
"""Metric -> field of the GPU."""


class _Function:
    """A function of the library: nvidia-ml-py sets attributes of it."""

    def __init__(self, name: str, library: FakeLibrary) -> None:
        self.restype: Any = None
        self._name = name
        self._library = library

    def __call__(self, *arguments: Any) -> Any:
        return self._library.call(self._name, arguments)


class _Error(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class FakeLibrary:
    """What nvidia-ml-py takes for libnvidia-ml.so.1."""

    def __init__(self, module: Any, machine: Machine) -> None:
        self._module = module
        self._machine = machine
        self._handles: dict[str, int] = {}
        self._of: dict[int, str] = {}
        self.opened = 0
        """Initializations without their shutdown."""
        self.samples: dict[int, str | None] = {}
        self.sets: dict[int, set[str]] = {}
        self._next = 0x1000
        self._missing: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> _Function:
        known = name.startswith("nvml") and hasattr(FakeLibrary, f"do_{name}")
        if not known or any(word in name for word in self._missing):
            raise AttributeError(name)
        return _Function(name, self)

    def without(self, *words: str) -> None:
        """Be an older library, without the functions that have one of these words in their names."""
        self._missing = words

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Answer as the library does: with the number of an error, or 0."""
        machine = self._machine
        machine.refresh()
        if name == "nvmlErrorString":
            return f"error {arguments[0]}".encode()
        if not name.startswith("nvmlEventSetWait"):
            machine.calls.append(name)
        first = arguments[0] if arguments else None
        gpu = self._gpu(first) if name.startswith(("nvmlDevice", "nvmlGpm")) else None
        machine.block(name, gpu)
        failed = ""
        if name != "nvmlInitWithFlags" and not self.opened:
            failed = "UNINITIALIZED"
        elif gpu is not None:
            time.sleep(gpu.slow_s)
            failed = gpu.errors.get(name, gpu.error)
        failed = failed or machine.errors.get(name, "")
        try:
            if not failed:
                getattr(self, f"do_{name}")(*arguments)
        except _Error as error:
            failed = error.name
        return getattr(self._module, f"NVML_ERROR_{failed}") if failed else 0

    # Handles

    def _handle(self, uuid: str) -> int:
        if uuid not in self._handles:
            self._next += 0x10
            self._handles[uuid] = self._next
            self._of[self._next] = uuid
        return self._handles[uuid]

    def _uuid(self, handle: Any) -> str | None:
        if not isinstance(handle, self._module.c_nvmlDevice_t):
            return None
        return self._of.get(ctypes.cast(handle, ctypes.c_void_p).value or 0)

    def _gpu(self, handle: Any) -> FakeGpu | None:
        uuid = self._uuid(handle)
        for gpu in self._machine.gpus:
            if uuid is not None and (gpu.uuid == uuid or any(m.uuid == uuid for m in gpu.migs)):
                return gpu
        return None

    def _mig(self, handle: Any) -> FakeMig | None:
        uuid = self._uuid(handle)
        found = (m for gpu in self._machine.gpus for m in gpu.migs if m.uuid == uuid)
        return next(found, None)

    def _known(self, handle: Any, *, whole: bool = False) -> FakeGpu:
        gpu = self._gpu(handle)
        if gpu is None:
            raise _Error("INVALID_ARGUMENT")
        if whole and (self._mig(handle) is not None or gpu.split):
            raise _Error("NOT_SUPPORTED")
        return gpu

    # The library itself

    def do_nvmlInitWithFlags(self, _flags: Any) -> None:
        if self._machine.init_error:
            raise _Error(self._machine.init_error)
        self.opened += 1

    def do_nvmlShutdown(self) -> None:
        self.opened -= 1

    def do_nvmlDeviceGetCount_v2(self, count: Any) -> None:
        count._obj.value = len(self._machine.gpus)

    def do_nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> None:
        if index.value >= len(self._machine.gpus):
            raise _Error("INVALID_ARGUMENT")
        gpu = self._machine.gpus[index.value]
        if gpu.errors.get("nvmlDeviceGetHandleByIndex_v2"):
            raise _Error(gpu.errors["nvmlDeviceGetHandleByIndex_v2"])
        _point(handle._obj, self._handle(gpu.uuid))

    def do_nvmlDeviceGetUUID(self, handle: Any, buffer: Any, _size: Any) -> None:
        self._known(handle)
        buffer.value = (self._uuid(handle) or "").encode()

    def do_nvmlDeviceGetName(self, handle: Any, buffer: Any, _size: Any) -> None:
        buffer.value = self._known(handle).product.encode()

    def do_nvmlDeviceGetPciInfo_v3(self, handle: Any, info: Any) -> None:
        info._obj.busId = self._known(handle).pci.encode()

    # Values

    def do_nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> None:
        rates._obj.gpu = self._known(handle, whole=True).utilization
        rates._obj.memory = 20

    def do_nvmlDeviceGetMemoryInfo_v2(self, handle: Any, info: Any) -> None:
        self._memory(handle, info._obj)

    def do_nvmlDeviceGetMemoryInfo(self, handle: Any, info: Any) -> None:
        self._memory(handle, info._obj)
        if self._mig(handle) is None:
            info._obj.used += self._known(handle).memory_reserved

    def _memory(self, handle: Any, info: Any) -> None:
        found: FakeGpu | FakeMig = self._mig(handle) or self._known(handle)
        info.total, info.used = found.memory_total, found.memory_used
        info.free = max(0, found.memory_total - found.memory_used)

    def do_nvmlDeviceGetPowerUsage(self, handle: Any, value: Any) -> None:
        value._obj.value = self._whole(handle).power_mw

    def do_nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> None:
        value._obj.value = self._whole(handle).energy_mj

    def do_nvmlDeviceGetTemperatureV(self, handle: Any, value: Any) -> None:
        value._obj.temperature = self._whole(handle).temperature

    def do_nvmlDeviceGetTemperature(self, handle: Any, _sensor: Any, value: Any) -> None:
        value._obj.value = self._whole(handle).temperature

    def do_nvmlDeviceGetClockInfo(self, handle: Any, kind: Any, value: Any) -> None:
        gpu = self._whole(handle)
        value._obj.value = gpu.sm_clock if kind.value == 1 else gpu.memory_clock

    def do_nvmlDeviceGetSupportedClocksEventReasons(self, handle: Any, value: Any) -> None:
        value._obj.value = self._whole(handle).supported_reasons

    def do_nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any, value: Any) -> None:
        value._obj.value = self._whole(handle).reasons

    do_nvmlDeviceGetSupportedClocksThrottleReasons = do_nvmlDeviceGetSupportedClocksEventReasons
    do_nvmlDeviceGetCurrentClocksThrottleReasons = do_nvmlDeviceGetCurrentClocksEventReasons

    def do_nvmlDeviceGetTotalEccErrors(
        self, handle: Any, kind: Any, _counter: Any, value: Any
    ) -> None:
        gpu = self._whole(handle)
        value._obj.value = gpu.uncorrected if kind.value else gpu.corrected

    def do_nvmlDeviceGetFieldValues(self, handle: Any, _count: Any, values: Any) -> None:
        gpu = self._known(handle)
        for each in values._obj:
            if each.fieldId != 230 or gpu.recovery_action is None:
                each.nvmlReturn = self._module.NVML_ERROR_NOT_SUPPORTED
                continue
            each.nvmlReturn, each.valueType = 0, 1
            each.value.uiVal = gpu.recovery_action

    def _whole(self, handle: Any) -> FakeGpu:
        """The GPU, for what a MIG instance does not have."""
        if self._mig(handle) is not None:
            raise _Error("NOT_SUPPORTED")
        return self._known(handle)

    # MIG

    def do_nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> None:
        current._obj.value = pending._obj.value = int(self._known(handle).split)

    def do_nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> None:
        self._known(handle)
        count._obj.value = 7

    def do_nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, mig: Any) -> None:
        migs = self._known(handle).migs
        if index.value >= len(migs):
            raise _Error("NOT_FOUND")
        _point(mig._obj, self._handle(migs[index.value].uuid))

    def do_nvmlDeviceGetGpuInstanceId(self, handle: Any, value: Any) -> None:
        mig = self._mig(handle)
        if mig is None:
            raise _Error("NOT_FOUND")
        value._obj.value = mig.gpu_instance

    def do_nvmlDeviceGetComputeInstanceId(self, handle: Any, value: Any) -> None:
        mig = self._mig(handle)
        if mig is None:
            raise _Error("NOT_FOUND")
        value._obj.value = mig.compute_instance

    # GPM

    def do_nvmlGpmQueryDeviceSupport(self, handle: Any, support: Any) -> None:
        support._obj.isSupportedDevice = int(self._known(handle).gpm)

    def do_nvmlGpmSampleAlloc(self, sample: Any) -> None:
        self._next += 0x10
        self.samples[self._next] = None
        _point(sample._obj, self._next)

    def do_nvmlGpmSampleFree(self, sample: Any) -> None:
        del self.samples[_address(sample)]

    def do_nvmlGpmSampleGet(self, handle: Any, sample: Any) -> None:
        self.samples[_address(sample)] = self._known(handle, whole=True).uuid

    def do_nvmlGpmMigSampleGet(self, handle: Any, instance: Any, sample: Any) -> None:
        migs = [m for m in self._known(handle).migs if m.gpu_instance == instance]
        if not migs:
            raise _Error("INVALID_ARGUMENT")
        self.samples[_address(sample)] = migs[0].uuid

    def do_nvmlGpmMetricsGet(self, asked: Any) -> None:
        asked = asked._obj
        earlier, later = (self.samples[_address(each)] for each in (asked.sample1, asked.sample2))
        if earlier is None or later != earlier or asked.version != 1:
            raise _Error("INVALID_ARGUMENT")
        found: Any = next(
            each for gpu in self._machine.gpus for each in (gpu, *gpu.migs) if each.uuid == later
        )
        for place in range(asked.numMetrics):
            metric = asked.metrics[place]
            metric.nvmlReturn = 0
            metric.value = getattr(found, GPM[metric.metricId])

    # Events

    def do_nvmlEventSetCreate(self, events: Any) -> None:
        self._next += 0x10
        self.sets[self._next] = set()
        _point(events._obj, self._next)

    def do_nvmlEventSetFree(self, events: Any) -> None:
        del self.sets[_address(events)]

    def do_nvmlDeviceGetSupportedEventTypes(self, handle: Any, kinds: Any) -> None:
        kinds._obj.value = 0xF if self._known(handle).events else 0

    def do_nvmlDeviceRegisterEvents(self, handle: Any, _kinds: Any, events: Any) -> None:
        if self._mig(handle) is not None:
            raise _Error("INVALID_ARGUMENT")
        self.sets[_address(events)].add(self._known(handle).uuid)

    def do_nvmlEventSetWait_v2(self, events: Any, data: Any, timeout: Any) -> None:
        machine = self._machine
        registered = self.sets[_address(events)]

        def mine() -> list[tuple[str, int, int, int]]:
            return [each for each in machine.queue if each[0] in registered]

        with machine.changed:
            machine.changed.wait_for(mine, timeout.value / 1000)
            found = mine()
            if not found:
                raise _Error("TIMEOUT")
            machine.queue.remove(found[0])
        uuid, code, gi, ci = found[0]
        _point_field(data._obj, "device", self._handle(uuid))
        data._obj.eventType, data._obj.eventData = 8, code
        data._obj.gpuInstanceId, data._obj.computeInstanceId = gi, ci


def _point(pointer: Any, address: int) -> None:
    ctypes.c_void_p.from_address(ctypes.addressof(pointer)).value = address


def _point_field(struct: Any, name: str, address: int) -> None:
    offset = getattr(type(struct), name).offset
    ctypes.c_void_p.from_address(ctypes.addressof(struct) + offset).value = address


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0
