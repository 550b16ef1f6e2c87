"""Makes a batch of the suspects that run again; it is chosen among the others by `selection.first`."""

from __future__ import annotations

from collections.abc import Mapping

from batcher.core.batching.proposal import Proposal
from batcher.core.devices.instances import Instance
from batcher.core.faults.bisection import Bisection
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest


def retry_of(
    model: Model,
    suspects: Bisection,
    instance: Instance,
    live: Mapping[int, LiveRequest],
    now_ns: int,
) -> Proposal:
    """Returns the next group of a failed batch as a batch."""
    parts = suspects.group(model.most_rows(suspects.shapes))
    requests = [live[part.id] for part in parts]
    rows = sum([part.stop - part.start for part in parts])
    times = model.times.get(suspects.shapes)
    expected_ns = times.curve[min(rows, times.max_rows)] if times and times.curve else 0.0
    return Proposal(
        model,
        instance,
        None,
        suspects.shapes,
        requests,
        rows,
        expected_ns,
        now_ns,
        suspects=suspects,
        parts=parts,
    )
