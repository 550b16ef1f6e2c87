"""One initialization of NVML: the GPUs that it has, and those that are read. Used on one thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from batcher.telemetry.devices.events import Events
from batcher.telemetry.devices.gpm import Gpm
from batcher.telemetry.devices.inventory import (
    Found,
    Gpu,
    GpuName,
    MigInstance,
    NotFound,
    configured_gpu,
    cuda_gpu,
)
from batcher.telemetry.devices.nvml import (
    Handle,
    Nvml,
    as_text,
    code_of,
    is_lost,
    needs_reset,
    text_of,
)
from batcher.telemetry.devices.reading import NotInitialized, Target

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The GPU that a device is said to be."""

    gpu: GpuName
    by_executor: bool = False
    """Whether its executor says so: then a number is CUDA's. Else the configuration does."""


Missing: TypeAlias = str
"""Why no GPU was found."""


class Session:
    """The GPUs of one initialization. Raises what `nvmlInit` raises.

    `like` is one that is still open: then its GPUs are these, and none is asked, as one of them may hang.
    """

    def __init__(self, nvml: Nvml, like: Session | None = None) -> None:
        self.nvml = nvml
        nvml.nvmlInit()
        self.targets: dict[str, Target] = {}
        """UUID -> what is read."""
        self.handles: dict[str, Handle] = {}
        """UUID of a GPU or an instance -> its handle."""
        self.whole: dict[str, Handle] = {}
        """UUID of a GPU or an instance -> the handle of the GPU."""
        self.gpus: tuple[Gpu, ...] = ()
        self.refused: dict[int, bool] = {}
        """Number of a GPU that NVML says is lost, or has to be reset -> whether it is the latter."""
        self.gpm = Gpm(nvml)
        self.events = Events(nvml)
        self.fresh: set[str] = set()
        """UUIDs of targets that were not read yet, and not added to `events`."""
        if like is not None:
            self.gpus, self.handles, self.whole = like.gpus, like.handles, like.whole
            return
        try:
            self.gpus = tuple(self._gpu(index) for index in range(nvml.nvmlDeviceGetCount()))
        except BaseException:
            self.close()
            raise

    def find(self, claimed: Claimed, environ: Mapping[str, str]) -> Found | Missing:
        """The GPU that a device is, or why it cannot be told."""
        try:
            if claimed.by_executor:
                return cuda_gpu(claimed.gpu, self.gpus, environ)
            return configured_gpu(claimed.gpu, self.gpus)
        except NotFound as error:
            return str(error)

    def has(self, uuid: str) -> bool:
        """Whether it has a GPU, or an instance, with this UUID."""
        return uuid in self.handles

    def described(self, uuid: str) -> tuple[str, bool]:
        """The name of the product, and whether it is a MIG instance."""
        gpu = next(
            each
            for each in self.gpus
            if uuid in {each.uuid, *(instance.uuid for instance in each.instances)}
        )
        return gpu.product, gpu.uuid != uuid

    def use(self, uuids: Iterable[str]) -> None:
        """Read these from now on. Events are those of targets that are then added to `events`."""
        wanted = dict.fromkeys(uuids)
        self.targets = {uuid: self.targets.get(uuid) or self._target(uuid) for uuid in wanted}
        self.events.close()
        self.events = Events(self.nvml)
        self.fresh = set(wanted)

    def close(self) -> None:
        """Give back everything, and shut NVML down, unless something else of this process uses it."""
        self.events.close()
        self.gpm.close()
        try:
            self.nvml.nvmlShutdown()
        except Exception as error:  # noqa: BLE001 - nothing more can be done
            log.debug("NVML could not be shut down: %s", error)

    def _target(self, uuid: str) -> Target:
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return Target(uuid, self.handles[uuid], self.whole[uuid])
            for each in gpu.instances:
                if each.uuid == uuid:
                    return Target(
                        uuid,
                        self.handles[uuid],
                        self.whole[uuid],
                        each.gpu_instance,
                        each.compute_instance,
                    )
        raise KeyError(uuid)

    def _gpu(self, index: int) -> Gpu:
        nvml = self.nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = as_text(nvml.nvmlDeviceGetUUID(handle))
        except Exception as error:  # noqa: BLE001 - it is no reason to lose the others
            self._check(error)
            if is_lost(nvml, error) or needs_reset(nvml, error):
                self.refused[index] = needs_reset(nvml, error)
            return Gpu(index, problem=text_of(nvml, error))
        self.handles[uuid] = self.whole[uuid] = handle
        split, instances = self._instances(handle)
        return Gpu(
            index,
            uuid,
            self._told(lambda: as_text(nvml.nvmlDeviceGetPciInfo(handle).busId)),
            self._told(lambda: as_text(nvml.nvmlDeviceGetName(handle))),
            split,
            instances,
        )

    def _instances(self, handle: Handle) -> tuple[bool, tuple[MigInstance, ...]]:
        nvml = self.nvml
        try:
            if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return False, ()
            places = range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
        except Exception as error:  # noqa: BLE001 - a GPU that cannot be split
            self._check(error)
            return False, ()
        return True, tuple(each for place in places if (each := self._instance(handle, place)))

    def _instance(self, handle: Handle, place: int) -> MigInstance | None:
        nvml = self.nvml
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
            uuid = as_text(nvml.nvmlDeviceGetUUID(instance))
            found = MigInstance(
                uuid,
                int(nvml.nvmlDeviceGetGpuInstanceId(instance)),
                int(nvml.nvmlDeviceGetComputeInstanceId(instance)),
            )
        except Exception as error:  # noqa: BLE001 - places may be empty
            self._check(error)
            return None
        self.handles[uuid], self.whole[uuid] = instance, handle
        return found

    def _told(self, ask: Callable[[], str]) -> str:
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - it goes without
            self._check(error)
            return ""

    def _check(self, error: Exception) -> None:
        if code_of(self.nvml, error) == self.nvml.NVML_ERROR_UNINITIALIZED:
            raise NotInitialized(str(error)) from error
