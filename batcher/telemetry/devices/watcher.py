"""`DeviceWatcher`: the event loop's side of the statistics of devices.

It knows which GPU belongs to each device, has a `Reader` read these, answers from what was read last, and calls
back when a device has failed or has not any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from batcher.clock import SECOND, Clock, monotonic_ns
from batcher.telemetry.devices.inventory import GpuName
from batcher.telemetry.devices.reader import Problem, Reader
from batcher.telemetry.devices.records import Record
from batcher.telemetry.devices.session import Claimed
from batcher.telemetry.devices.statistics import DeviceState, DeviceStatistics

log = logging.getLogger(__name__)

CHECK_S: Final = 1.0
"""Seconds between two looks at whether the thread hangs."""

STALE_NS: Final = 30 * SECOND
"""Values that are older are not told any more, only their age: three times what a reading may take until it counts
as hanging."""

CLOSE_S: Final = 1.0
"""Seconds that the thread may take to end when the server stops. Usual is a quarter of a second."""

NO_GPU: Final = "neither its executor nor devices.*.gpu says which GPU it is"

_NOTHING: Final = DeviceStatistics("")

Told = Callable[[str], None]
"""Called with why a device has failed; with an empty text when it has not any more."""


class Claim:
    """That an instance is on a device. Call every method on the event loop; `close` at its end."""

    def __init__(self, watcher: DeviceWatcher, device: str, told: Told) -> None:
        self._watcher = watcher
        self.device = device
        self.told = told

    def uses(self, gpu: GpuName | None) -> None:
        """Note which GPU its executor uses; None if it does not say."""
        self._watcher.keep(self, gpu)

    @property
    def failure(self) -> str:
        """Why the device has failed; empty if it has not, or nothing is known."""
        return self._watcher.failure(self.device)

    def close(self) -> None:
        """Note that the instance is not on the device any more."""
        self._watcher.drop(self)


class DeviceWatcher:
    """Knows which GPU belongs to each device, and what was read of it last.

    Call every method on the event loop. Without `run` nothing is read. `gpus` is what the configuration says.
    """

    def __init__(
        self,
        gpus: Mapping[str, GpuName] | None = None,
        clock: Clock = monotonic_ns,
        reader: Callable[[Callable[[], None], Clock], Reader] = Reader,
    ) -> None:
        self._gpus = dict(gpus or {})
        self._clock = clock
        self._claims: dict[str, dict[Claim, GpuName | None]] = {}
        """Device -> what is on it, with the GPU that its executor says. There may be thousands."""
        self._said: dict[str, GpuName] = {}
        """Device -> the GPU that an executor said last."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader = reader(self._wake, clock)
        self._failures: dict[str, str] = {}
        """Device -> why it has failed, as its claims were told."""
        self._states: dict[str, tuple[DeviceState, str]] = {}
        """Device -> what was logged of it last."""
        self._changed()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that something is on, or that the configuration has a GPU for; sorted."""
        return tuple(sorted(self._gpus.keys() | self._claims.keys()))

    def configure(self, gpus: Mapping[str, GpuName]) -> None:
        """Take these as the GPUs of the configuration from now on."""
        self._gpus = dict(gpus)
        self._changed()

    def claim(self, device: str, told: Told) -> Claim:
        """Note that an instance is on a device. `told` is called when the device fails, and when that ends."""
        claim = Claim(self, device, told)
        self._claims.setdefault(device, {})[claim] = None
        return claim

    def keep(self, claim: Claim, gpu: GpuName | None) -> None:
        """See `Claim.uses`."""
        on_device = self._claims.setdefault(claim.device, {})
        before, on_device[claim] = on_device.get(claim), gpu
        if gpu is not None:
            self._said[claim.device] = gpu
        if gpu != before:
            self._changed()

    def drop(self, claim: Claim) -> None:
        """See `Claim.close`."""
        on_device = self._claims.get(claim.device, {})
        gpu = on_device.pop(claim, None)
        if not on_device:
            self._claims.pop(claim.device, None)
        elif gpu is None:
            return
        said = (each for each in reversed(on_device.values()) if each is not None)
        left = next(said, None)
        if left is None:
            self._said.pop(claim.device, None)
        else:
            self._said[claim.device] = left
        self._changed()

    def _changed(self) -> None:
        """Have the GPUs read that belong to devices now."""
        wanted = {device: Claimed(gpu, by_executor=True) for device, gpu in self._said.items()}
        wanted |= {device: Claimed(gpu) for device, gpu in self._gpus.items()}
        if wanted != self._reader.wanted:
            self._reader.wanted = wanted
        if self._loop is not None:
            if wanted:
                self._reader.start()
            # Not at once: who changes this may be about to come up on a device that has failed.
            self._loop.call_soon(self._look)

    def report(self, device: str) -> DeviceStatistics:
        """What is known of a device now. Reads nothing, and returns at once."""
        reader = self._reader
        if device not in reader.wanted:
            return DeviceStatistics(device, DeviceState.NO_GPU, NO_GPU)
        record = reader.found.get(device)
        state, reason = self._state(record)
        if not isinstance(record, Record):
            return DeviceStatistics(device, state, reason)
        known, age_s = record.known, None
        if known.read_ns is not None:
            age_s = max(0, self._clock() - known.read_ns) / SECOND
        fresh = age_s is not None and age_s * SECOND <= STALE_NS
        return replace(
            known.statistics if known.statistics is not None and fresh else _NOTHING,
            device=device,
            state=state,
            reason=reason,
            failures=record.faults.failures,
            age_s=age_s,
            uuid=record.uuid,
            product=record.product,
            mig=record.mig,
            xid_events=record.xids if record.watched or record.xids else None,
        )

    def reports(self) -> tuple[DeviceStatistics, ...]:
        """What is known of all devices."""
        return tuple(self.report(device) for device in self.devices)

    def failure(self, device: str) -> str:
        """Why a device has failed; empty if it has not, or nothing is known."""
        record = self._reader.found.get(device)
        if not isinstance(record, Record) or not record.faults.failures:
            return ""
        return f"device {device} has failed: {'; '.join(record.faults.failures.values())}"

    async def run(self) -> None:
        """Read, and see to the thread that does, until this is cancelled."""
        self._loop = asyncio.get_running_loop()
        self._changed()
        while True:
            await asyncio.sleep(CHECK_S)
            self._reader.check()

    async def close(self) -> None:
        """End the thread that reads. One that hangs is left behind: it ends with the process."""
        self._loop = None
        if self._reader.running:
            await asyncio.to_thread(self._reader.close, CLOSE_S)

    def _state(self, record: Record | Problem | None) -> tuple[DeviceState, str]:
        reader = self._reader
        if reader.stuck:
            return DeviceState.HANGING, reader.stuck
        if reader.problem is not None:
            return reader.problem.state, reader.problem.reason
        if record is None:
            return DeviceState.PENDING, "not read yet"
        if isinstance(record, Problem):
            return record.state, record.reason
        if (why := reader.hanging.get(record.uuid)) is not None:
            return DeviceState.HANGING, why
        return record.known.state, record.known.reason

    def _wake(self) -> None:
        """Have the event loop look at what was read. Called on the reading thread."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._look)
            except RuntimeError:  # it is closed
                log.debug("the event loop is closed; what was read of GPUs is not told")

    def _look(self) -> None:
        """Log what has changed, and tell the claims of devices that have failed or have not any more."""
        for device in self._reader.wanted:
            self._log(device)
        failures = {device: why for device in self._reader.wanted if (why := self.failure(device))}
        before, self._failures = self._failures, failures
        for device in before.keys() | failures.keys():
            why = failures.get(device, "")
            if why == before.get(device, ""):
                continue
            if why:
                log.error("%s", why)
            else:
                log.warning("device %s can be used again", device)
            for claim in tuple(self._claims.get(device, ())):
                self._tell(claim, why)

    def _log(self, device: str) -> None:
        now = self.report(device)
        state = now.state, now.reason
        before = self._states.get(device)
        self._states[device] = state
        if before is not None and before[0] is state[0]:
            return
        if state[0] is DeviceState.OK:
            log.info("device %s is %s (%s)", device, now.product or "a GPU", now.uuid)
        elif self._reader.problem is None and not self._reader.stuck:
            # What concerns all of them is logged once, where it is found.
            level = logging.DEBUG if state[0] is DeviceState.PENDING else logging.WARNING
            log.log(level, "statistics of device %s: %s: %s", device, *state)

    @staticmethod
    def _tell(claim: Claim, why: str) -> None:
        try:
            claim.told(why)
        except Exception:
            log.exception("internal error: an instance was not told that its device has failed")
