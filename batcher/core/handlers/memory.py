"""Memory ceilings: lowered when a device has no memory for a batch, and raised again by steps."""

from __future__ import annotations

from batcher.core.batch_sizes import filled_rows
from batcher.core.commands import BatchCeiling
from batcher.core.contents import Contents
from batcher.core.devices.instances import RunningBatch
from batcher.core.model import Model, row_elements
from batcher.core.requests.out_of_memory import cut_suspects
from batcher.core.requests.splitting import split
from batcher.core.times import NEVER_NS


def lower_ceiling(contents: Contents, model: Model, batch: RunningBatch) -> None:
    """Note a batch that had no room. What waits is made to fit the batches that are allowed now."""
    rows = filled_rows(batch.rows, model.settings.batch_sizes)
    begins = model.memory.failed(row_elements(batch.shapes), rows, contents.now_ns)
    note_ceilings(contents)
    model.times.fit()
    model.judge_target()
    if begins:
        most = model.most_rows(batch.shapes)
        contents.ledger.commands.append(BatchCeiling(model.name, rows, most))
    for request in list(model.queue):
        if request.rows > model.most_rows(request.bucket):
            model.queue.discard(request)
            split(request, model)
            model.queue.add(request)
    cut_suspects(model, contents.live)


def note_room(contents: Contents, model: Model, batch: RunningBatch) -> None:
    """Note a batch that had room while there is a ceiling."""
    rows = filled_rows(batch.rows, model.settings.batch_sizes)
    if model.memory.succeeded(row_elements(batch.shapes), rows):
        _end(contents, model)
        note_ceilings(contents)


def raise_ceilings(contents: Contents) -> None:
    """Raise the ceilings of all models whose time has come."""
    for model in contents.models.values():
        if model.memory.raise_at_ns <= contents.now_ns:
            if model.memory.raise_(contents.now_ns):
                _end(contents, model)
            model.times.fit()
            model.judge_target()
    contents.undecided = True
    note_ceilings(contents)


def note_ceilings(contents: Contents) -> None:
    """Find out when the next ceiling is raised."""
    ends_ns = [model.memory.raise_at_ns for model in contents.models.values()]
    contents.raise_at_ns = min(ends_ns, default=NEVER_NS)


def _end(contents: Contents, model: Model) -> None:
    model.times.fit()
    model.judge_target()
    contents.ledger.commands.append(BatchCeiling(model.name, over=True))
