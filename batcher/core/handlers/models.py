"""Models are configured and removed."""

from __future__ import annotations

from batcher.core.commands import PolicyFailed, Reason, SettingsRefused
from batcher.core.contents import Contents
from batcher.core.events import FailureCause, InstancesFailed, ModelConfigured, ModelRemoved
from batcher.core.handlers.memory import note_ceilings
from batcher.core.model import Model
from batcher.core.requests.failed_batches import refit
from batcher.core.requests.promotion import reorder
from batcher.core.requests.refusals import UNAVAILABLE_RETRY_NS
from batcher.errors import describe


def configure(contents: Contents, event: ModelConfigured) -> None:
    """Add a model, or change its settings: all of them or none (`SettingsRefused`)."""
    model = contents.models.get(event.model)
    known = model is not None
    if model is None:
        model = Model(
            event.model,
            event.settings,
            contents.make_policy,
            contents.policy_errors,
            contents.now_ns,
        )
        # What an earlier model of this name still runs is this one's now.
        running = contents.fleet.batches.values()
        model.running = sum(batch.model == event.model for batch in running)
        before = contents.models.get(event.replaces)
        if before is not None:
            model.replaces = event.replaces
            model.offered.since_ns = before.offered.since_ns
        contents.models[event.model] = model
    was_deadline_aware = model.deadline_aware
    max_rows = model.settings.max_batch_size
    try:
        model.configure(event.settings)
    except Exception as exc:  # noqa: BLE001 - a policy's own code; the model runs without it
        error = describe(exc)
        if known:
            contents.ledger.commands.append(SettingsRefused(model.name, error))
            return
        model.start_without_policy(event.settings)
        contents.ledger.commands.append(PolicyFailed(model.name, error))
    resized = max_rows != event.settings.max_batch_size
    reorder(model, contents.now_ns, was_deadline_aware=was_deadline_aware, resized=resized)
    refit(model, contents.ledger, FailureCause.UNKNOWN, contents.now_ns)
    note_ceilings(contents)


def instances_failed(contents: Contents, event: InstancesFailed) -> None:
    """Refuse what waits for a model that no instance serves or will serve."""
    model = contents.models.get(event.model)
    if model is not None and event.model not in contents.fleet.by_model:
        _refuse_waiting(contents, model, Reason.NO_INSTANCE)


def _refuse_waiting(contents: Contents, model: Model, reason: Reason) -> None:
    again = {part.id: contents.live[part.id] for part in model.bisections.waiting_parts()}
    waiting = {request.id: request for request in model.queue} | again | model.queue.held
    contents.ledger.refuse(waiting.values(), reason, retry_ns=UNAVAILABLE_RETRY_NS)


def remove(contents: Contents, event: ModelRemoved) -> None:
    """Remove a model and refuse what waits for it; its running batches may finish."""
    model = contents.models.get(event.model)
    if model is None:
        return
    _refuse_waiting(contents, model, Reason.MODEL_REMOVED)
    for batch in contents.fleet.batches.values():
        if batch.model == event.model:
            batch.suspects = None
    for each in contents.models.values():
        if each.replaces == event.model:
            each.offered.take_over(model.offered)
            each.replaces = ""
    del contents.models[event.model]
    note_ceilings(contents)
    contents.reset_device_shares()
