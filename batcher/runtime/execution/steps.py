"""Tells the steps of sequences when their batches end, and how they end themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from batcher.core.commands import Outcome, Settle
from batcher.runtime.pending import PendingRequest

log = logging.getLogger(__name__)


def stop_steps(pendings: Iterable[PendingRequest]) -> None:
    """Tell steps of sequences that the batch which they are in has ended."""
    for pending in pendings:
        if pending.step is not None:
            pending.step.ran()


def settle_steps(settle: Settle, requests: Mapping[int, PendingRequest]) -> int:
    """Tell steps of sequences how they have ended; returns how many there are. Never raises.

    To be called before further batches are prepared: the steps after these need their state.
    """
    why, steps = "", 0
    if settle.outcome is not Outcome.OK:
        why = (settle.reason or settle.outcome).replace("_", " ")
    for request_id in settle.ids:
        pending = requests.get(request_id)
        if pending is None or pending.step is None:
            continue
        steps += 1
        try:
            pending.step.settle(why)
        except Exception:
            log.exception(
                "%s: internal error: the state of a sequence may be wrong", pending.target.name
            )
    return steps
