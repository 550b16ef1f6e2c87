"""When a GPU has failed, and when it has not any more: from what was read of it and its XID events.

| cause | begins | ends |
|---|---|---|
| lost | two readings in a row say that the GPU is lost (that an initialization of NVML says so, or does not have it \
any more after such a reading, is one); XID 79 | it can be read again, `HOLD_NS` later |
| reset_required | two readings in a row say so; the driver's recovery action is a reset or a restart | \
the recovery action is another one and it can be read |
| xid | an XID of `FATAL` | the driver says that nothing has to be done, `HOLD_NS` later; or it was lost, and is back |
| ecc | more uncorrectable memory errors than before; XID 48 | the same; or the count is lower: it was reset |

Drivers before 560 do not say what has to be done. There an XID and memory errors stand until the GPU was reset.
Errors that a program causes (XID 13, 31, 43, 45 and so on) are no failure of the GPU.
"""

from __future__ import annotations

from typing import Final

from batcher.clock import SECOND
from batcher.telemetry.devices.statistics import FailureCause

FATAL: Final = {
    46: "the GPU has stopped processing",
    62: "a micro-controller of the GPU has halted",
    64: "a row of its memory could not be remapped",
    95: "an uncontained memory error",
    110: "a security fault",
    119: "its system processor (GSP) does not answer",
    120: "an error of its system processor (GSP)",
    140: "an unrecovered memory error",
    143: "the GPU could not be initialized",
    158: "a fatal timeout of the GPU",
}
"""XIDs after which NVIDIA's catalog has the GPU reset, with what they mean. Not those of NVLink (74, 136, 144 to
150, 155), which need not concern a model on one GPU, nor 109, which a program can cause, and 156, which takes
effect at the next reset: where one of these makes a reset necessary, the recovery action says so."""

LOST_XID: Final = 79
"""The GPU has fallen off the bus."""

ECC_XID: Final = 48
"""A memory error that could not be corrected."""

RESETS: Final = {
    1: "a reset of the GPU",
    2: "a restart of the machine",
    6: "a reset of its bus",
    7: "a restart of the machine",
}
"""Recovery actions without which the GPU cannot be used. Others (3, 4: drain; 5: of the fabric) leave it in use."""

READINGS: Final = 2
"""Readings in a row that have to say that the GPU is lost: one alone may be a mistake of the driver."""

HOLD_NS: Final = 10 * SECOND
"""How long a failure lasts at least that the driver takes back: it tells of a recovery action a moment after the
XID. Ten readings; half of it would do, and twice as much only keeps a GPU out of service for longer."""


class Faults:
    """The failures of one GPU, or one MIG instance."""

    def __init__(self) -> None:
        self.failures: dict[FailureCause, str] = {}
        """Cause -> what has happened. Replaced, never changed, so that other threads may read it."""
        self._since_ns: dict[FailureCause, int] = {}
        self._lost = 0
        self._reset = 0
        self._uncorrected: int | None = None

    def lost(self, now_ns: int, *, reset: bool = False) -> None:
        """Note a reading that says that the GPU is lost, or with `reset` that it has to be reset."""
        self._lost = 0 if reset else self._lost + 1
        self._reset = self._reset + 1 if reset else 0
        if self._lost >= READINGS:
            self._begin(FailureCause.LOST, "the GPU is lost, says NVML", now_ns)
        if self._reset >= READINGS:
            why = "the GPU has to be reset, says NVML"
            self._begin(FailureCause.RESET_REQUIRED, why, now_ns)

    def gone(self, now_ns: int) -> None:
        """Note that NVML, initialized again after such a reading, does not have the GPU: that is one more."""
        self.lost(now_ns, reset=self._reset > 0)

    @property
    def undecided(self) -> bool:
        """Whether the last reading said so, and the next one decides."""
        return 0 < self._lost + self._reset < READINGS

    def xid(self, xid: int, now_ns: int) -> None:
        """Note an XID event."""
        if xid == LOST_XID:
            why = "the GPU has fallen off the bus (XID 79)"
            self._begin(FailureCause.LOST, why, now_ns)
        elif xid == ECC_XID:
            why = "a memory error could not be corrected (XID 48)"
            self._begin(FailureCause.ECC, why, now_ns)
        elif xid in FATAL:
            self._begin(FailureCause.XID, f"{FATAL[xid]} (XID {xid})", now_ns)

    def read(self, uncorrected: int | None, recovery_action: int | None, now_ns: int) -> None:
        """Note a reading: memory errors, and what the driver says has to be done; None if it does not."""
        self._lost = self._reset = 0
        back = self._held(FailureCause.LOST, now_ns)
        self._end(FailureCause.LOST, back)
        needed = RESETS.get(recovery_action) if recovery_action is not None else None
        if needed is not None:
            why = f"the driver asks for {needed}"
            self._begin(FailureCause.RESET_REQUIRED, why, now_ns)
        elif recovery_action is not None or self._held(FailureCause.RESET_REQUIRED, now_ns):
            self._end(FailureCause.RESET_REQUIRED, True)
        usable = recovery_action is not None and needed is None
        self._end(FailureCause.XID, back or (usable and self._held(FailureCause.XID, now_ns)))
        self._count(uncorrected, now_ns)
        self._end(FailureCause.ECC, back or (usable and self._held(FailureCause.ECC, now_ns)))

    def _count(self, uncorrected: int | None, now_ns: int) -> None:
        before = self._uncorrected
        if uncorrected is None:
            return
        self._uncorrected = uncorrected
        if before is None:
            return
        if uncorrected > before:
            more = uncorrected - before
            why = f"{more} memory error{'s' if more > 1 else ''} could not be corrected"
            self._begin(FailureCause.ECC, why, now_ns)
        elif uncorrected < before:
            self._end(FailureCause.ECC, True)

    def _held(self, cause: FailureCause, now_ns: int) -> bool:
        since_ns = self._since_ns.get(cause)
        return since_ns is not None and now_ns - since_ns >= HOLD_NS

    def _begin(self, cause: FailureCause, why: str, now_ns: int) -> None:
        self._since_ns[cause] = now_ns
        if cause not in self.failures:
            self.failures = {**self.failures, cause: why}

    def _end(self, cause: FailureCause, ended: bool) -> None:
        if ended and cause in self.failures:
            self.failures = {key: why for key, why in self.failures.items() if key is not cause}
            del self._since_ns[cause]
