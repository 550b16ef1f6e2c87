"""XID events: errors of a GPU that the driver reports, by number."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from typing import Any, Final

from batcher.telemetry.devices.nvml import Nvml, code_of
from batcher.telemetry.devices.reading import NotInitialized, Target

log = logging.getLogger(__name__)

ANY_INSTANCE: Final = 0xFFFFFFFF
"""What an event says where it concerns the GPU as a whole."""


@dataclass(frozen=True, slots=True)
class XidEvent:
    """One error: its number, and the UUIDs of the targets that it concerns."""

    xid: int
    uuids: tuple[str, ...]


class Events:
    """The events of all GPUs of one initialization of NVML. Call every method on its thread."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._targets: list[Target] = []
        self._registered: dict[int, bool] = {}
        """GPU -> whether it has events."""
        self._set: Any = None
        self.watched: set[str] = set()
        """UUIDs of targets whose events are reported."""

    def add(self, target: Target) -> None:
        """Listen to the events of a target, if it has any."""
        address = _address(target.whole)
        if address not in self._registered:
            self._registered[address] = self._register(target)
        if self._registered[address]:
            self._targets.append(target)
            self.watched.add(target.uuid)

    def wait(self, timeout_ms: int) -> XidEvent | None:
        """The next event, within so many milliseconds. Raises `NotInitialized`, and errors of NVML."""
        nvml = self._nvml
        try:
            event = nvml.nvmlEventSetWait_v2(self._set, timeout_ms)
        except Exception as error:
            code = code_of(nvml, error)
            if code == nvml.NVML_ERROR_TIMEOUT:
                return None
            if code == nvml.NVML_ERROR_UNINITIALIZED:
                raise NotInitialized(str(error)) from error
            raise
        if event.eventType != nvml.nvmlEventTypeXidCriticalError:
            return None
        return XidEvent(int(event.eventData), self._concerned(event))

    def close(self) -> None:
        """Free what NVML keeps for the events."""
        events, self._set = self._set, None
        self.watched.clear()
        if events is None:
            return
        try:
            self._nvml.nvmlEventSetFree(events)
        except Exception as error:  # noqa: BLE001 - nothing more can be done
            log.debug("the set of events could not be freed: %s", error)

    def _register(self, target: Target) -> bool:
        nvml = self._nvml
        wanted = nvml.nvmlEventTypeXidCriticalError
        try:
            if not nvml.nvmlDeviceGetSupportedEventTypes(target.whole) & wanted:
                return False
            if self._set is None:
                self._set = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(target.whole, wanted, self._set)
        except Exception as error:  # noqa: BLE001 - it has no events then; readings tell if it is lost
            log.debug("%s: no XID events: %s", target.uuid, error)
            return False
        return True

    def _concerned(self, event: Any) -> tuple[str, ...]:
        where = _address(event.device)
        of_gpu = [each for each in self._targets if _address(each.whole) == where]
        if not of_gpu:
            of_gpu = self._by_uuid(event.device)
        return tuple(each.uuid for each in of_gpu if _hits(event, each))

    def _by_uuid(self, handle: Any) -> list[Target]:
        nvml = self._nvml
        try:
            uuid = nvml.nvmlDeviceGetUUID(handle)
            return [each for each in self._targets if nvml.nvmlDeviceGetUUID(each.whole) == uuid]
        except Exception as error:  # noqa: BLE001 - a GPU that is lost may not even have a name
            log.warning("an XID event is of a GPU that NVML cannot name: %s", error)
            return []


def _hits(event: Any, target: Target) -> bool:
    """Whether an event concerns the target: all of a GPU, or its own instance."""
    if target.gpu_instance is None or event.gpuInstanceId == ANY_INSTANCE:
        return True
    same = event.gpuInstanceId == target.gpu_instance
    return same and event.computeInstanceId in {ANY_INSTANCE, target.compute_instance}


def _address(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
