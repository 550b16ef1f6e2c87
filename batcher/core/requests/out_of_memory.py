"""A batch for which the device had no memory: its rows run again in smaller batches.

No request is to blame, so nothing is bisected and no failure is counted. The batch is cut into groups of
at most half of its rows, which run as suspects do: without new requests, each on the next free instance. A
request that has more rows than a group is cut as well. A group that fails for the same reason is cut again,
so that each row is executed at most log2(n) + 1 times. A batch of one row, or of the smallest size that can
run, cannot become smaller: its requests fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from batcher.core.commands import Part
from batcher.core.devices.instances import RunningBatch
from batcher.core.faults.bisection import Bisection
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest, Split
from batcher.core.requests.ledger import Ledger


def run_smaller(
    batch: RunningBatch, left: Sequence[Part], model: Model, ledger: Ledger, now_ns: int
) -> tuple[Sequence[Part], Sequence[Part]]:
    """Put the parts that are `left` of a batch that had no room among those that run again, cut to size.

    Returns those that have failed, and those that run again.
    """
    bisections, suspects = model.bisections, batch.suspects
    most = min(model.smaller_rows(batch.rows), model.most_rows(batch.shapes))
    if not (most and left) or model.name not in ledger.fleet.serving:
        if suspects is not None:
            bisections.lost(suspects)
        return left, ()
    pieces = [piece for part in left for piece in _cut(part, ledger.live[part.id], most)]
    bisections.run_smaller(batch.batch_id, suspects, pieces, batch.shapes, most, now_ns)
    return (), pieces


def cut_suspects(model: Model, live: Mapping[int, LiveRequest]) -> None:
    """Cut what waits to run again to the size of the batches that there is memory for now."""
    if model.memory.elements is not None:
        for suspects in model.bisections.open:
            _cut_waiting(suspects, model.most_rows(suspects.shapes), live)


def _cut_waiting(suspects: Bisection, most: int, live: Mapping[int, LiveRequest]) -> None:
    if all(part.stop - part.start <= most for part in suspects.waiting):
        return
    suspects.defer()
    cut: list[Part] = []
    for part in suspects.deferred:
        request = live[part.id]
        pieces = list(_cut(part, request, most))
        request.suspect_parts += len(pieces) - 1
        cut += pieces
    suspects.deferred = tuple(cut)


def _cut(part: Part, request: LiveRequest, most: int) -> Iterator[Part]:
    """A part as parts of at most `most` rows. A request that is cut is split from then on."""
    if part.stop - part.start > most and request.split is None:
        request.split = Split(request.rows)
        request.start = request.rows
    for start in range(part.start, part.stop, most):
        yield Part(part.id, start, min(start + most, part.stop))
