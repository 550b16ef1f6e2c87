"""What is known of each GPU, for as long as the server runs: NVML may be initialized again and again."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

from batcher.clock import SECOND
from batcher.telemetry.devices.faults import FATAL, LOST_XID, Faults
from batcher.telemetry.devices.statistics import DeviceState, DeviceStatistics

log = logging.getLogger(__name__)

OTHER_XID: Final = 0
"""Where events are counted that have no number of their own: no XID is 0."""

MOST_XIDS: Final = 64
"""Different XIDs of one GPU that are counted by number."""

LARGEST_XID: Final = 999
"""Numbers above it are no XIDs; NVIDIA's catalog ends well below 200."""

_LOGGED_EVERY_NS: Final = 60 * SECOND
"""Between two lines of the log on one XID of one GPU: some come thousands of times a second."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was read last, and how that went."""

    state: DeviceState = DeviceState.PENDING
    reason: str = "not read yet"
    statistics: DeviceStatistics | None = None
    read_ns: int | None = None
    """When `statistics` were read."""


@dataclass(slots=True)
class Record:
    """One GPU or MIG instance. One thread at a time writes; what it holds is replaced and never changed."""

    uuid: str
    product: str = ""
    mig: bool = False
    known: Known = field(default_factory=Known)
    faults: Faults = field(default_factory=Faults)
    watched: bool = False
    """Whether its XID events are reported."""
    xids: dict[int, int] = field(default_factory=dict)
    _logged_ns: dict[int, int] = field(default_factory=dict)

    def event(self, xid: int, now_ns: int) -> None:
        """Count an XID event."""
        counted = self._counted(xid)
        self.xids = {**self.xids, counted: self.xids.get(counted, 0) + 1}
        logged_ns = self._logged_ns.get(counted)
        if logged_ns is None or now_ns - logged_ns >= _LOGGED_EVERY_NS:
            self._logged_ns[counted] = now_ns
            fatal = xid in FATAL or xid == LOST_XID
            log.log(
                logging.ERROR if fatal else logging.WARNING,
                "%s: the driver reports XID %d (%d so far)",
                self.uuid,
                xid,
                self.xids[counted],
            )
        self.faults.xid(xid, now_ns)

    def _counted(self, xid: int) -> int:
        if not 1 <= xid <= LARGEST_XID:
            return OTHER_XID
        full = xid not in self.xids and len(self.xids) >= MOST_XIDS
        return OTHER_XID if full else xid
