"""The devices of a replica: they can hang, and tell when they were busy."""

from __future__ import annotations

from dataclasses import dataclass, field

from batcher.core.commands import Dispatch
from batcher.simulation.engine.service_time import Devices
from batcher.simulation.engine.stalls import Spells, ends_of


@dataclass(slots=True)
class BusyTimes:
    """When one device ran batches. Batches are noted when they are dispatched, and read in order of time."""

    noted: list[tuple[int, int]] = field(default_factory=list)
    """(begin, end) of batches that are not read to their end yet."""
    read_ns: int = 0
    """Up to here it is read."""
    busy_ns: int = 0
    """For so long any batch ran, up to then."""
    recent: list[tuple[int, int]] = field(default_factory=list)
    """The last (begin, end) pairs that were read, ascending and apart."""

    def read(self, until_ns: int, keep_ns: int = 0) -> int:
        """For how long any batch ran up to `until_ns`, which is at least that of the call before.

        `recent` keeps what is not older than `keep_ns`.
        """
        later: list[tuple[int, int]] = []
        recent = [pair for pair in self.recent if pair[1] > until_ns - keep_ns] if keep_ns else []
        covered_ns = self.read_ns
        for begin_ns, end_ns in sorted(self.noted):
            if end_ns > until_ns:
                later.append((max(begin_ns, until_ns), end_ns))
            from_ns, to_ns = max(begin_ns, covered_ns), min(end_ns, until_ns)
            if from_ns >= to_ns:
                continue
            self.busy_ns += to_ns - from_ns
            covered_ns = to_ns
            if keep_ns and to_ns > until_ns - keep_ns:
                recent.append((from_ns, to_ns))
        self.noted, self.recent, self.read_ns = later, recent, until_ns
        return self.busy_ns

    def part(self, from_ns: int, to_ns: int) -> float:
        """The part of a time in which any batch ran; `recent` must hold it."""
        busy_ns = sum([max(0, min(end, to_ns) - max(begin, from_ns)) for begin, end in self.recent])
        return busy_ns / (to_ns - from_ns)


@dataclass(slots=True)
class ReplicaDevices(Devices):
    """Devices that make no progress in `spells`, and note their batches where `times` is there."""

    spells: Spells = ()
    times: dict[str, BusyTimes] | None = None

    def run(self, dispatch: Dispatch, from_ns: int) -> tuple[int, int]:
        """When a batch that could begin at `from_ns` begins, and when it ends."""
        begins_ns, ends_ns = Devices.run(self, dispatch, from_ns)
        device = self.device_of[dispatch.instance]
        if self.spells:
            ends_ns = ends_of(begins_ns, ends_ns - begins_ns, self.spells)
            if device in self.exclusive:
                self.use[device].free_ns = ends_ns
        if self.times is not None:
            times = self.times.get(device)
            if times is None:
                times = self.times[device] = BusyTimes()
            times.noted.append((begins_ns, ends_ns))
        return begins_ns, ends_ns
