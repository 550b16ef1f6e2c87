"""The machine's processors and memory, as the kernel counts them. Absent where there is no `/proc`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from batcher.clock import SECOND, Clock

_IDLE: Final = slice(3, 5)
"""Of the fields of `cpu` in `/proc/stat`: idle, and idle while it waits for a disk."""


class Machine:
    """Reads how busy the machine is; whole system, whatever the limits of this process are."""

    def __init__(self, clock: Clock, proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._proc = proc
        self._read_ns = 0
        self._before: tuple[int, int] | None = None
        self._utilization: float | None = None

    def utilization(self) -> float | None:
        """The busy share of all cores, 0 to 1, since the reading before, a second ago or more.

        None before the second reading. Several readers within a second get the same value.
        """
        now_ns = self._clock()
        if self._before is None or now_ns - self._read_ns >= SECOND:
            before, self._before = self._before, self._ticks()
            self._read_ns = now_ns
            self._utilization = None
            if before is not None and self._before is not None:
                busy, total = (now - then for now, then in zip(self._before, before, strict=True))
                # Counts of a core that is taken away go backwards.
                if total > 0:
                    self._utilization = min(max(busy / total, 0.0), 1.0)
        return self._utilization

    def memory(self) -> tuple[int, int] | None:
        """Bytes of memory, and those of them that are not available."""
        with contextlib.suppress(OSError, KeyError, ValueError, IndexError):
            lines = (self._proc / "meminfo").read_text(encoding="ascii").splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            total, available = (
                int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")
            )
            return total, max(total - available, 0)
        return None

    def _ticks(self) -> tuple[int, int] | None:
        """What all cores together were busy for, and the whole time, in ticks since the machine started."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            with (self._proc / "stat").open(encoding="ascii") as file:
                name, *fields = file.readline().split()
            # Time of guests counts as time of the user already.
            ticks = [int(field) for field in fields[:8]]
            if name == "cpu":
                total = sum(ticks)
                return total - sum(ticks[_IDLE]), total
        return None
