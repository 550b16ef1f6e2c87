"""The decision at the end of a step: promote, form batches, give up, dispatch; until nothing is left to do."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.batching.batch_former import form
from batcher.core.commands import PolicyFailed
from batcher.core.contents import Contents
from batcher.core.handlers.dispatch import dispatch
from batcher.core.handlers.requests import release_steps
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.blame import refuse_late
from batcher.core.requests.late import LateQueue
from batcher.core.requests.promotion import promote, reorder
from batcher.core.times import NEVER_NS


def decide(contents: Contents, now_ns: int) -> None:
    """Dispatch every batch that is ready, and find out when to decide again."""
    contents.undecided = False
    _promote(contents, now_ns)
    _dispatch_all(contents, now_ns)
    for model in contents.models.values():
        if model.prefetch_at_ns < NEVER_NS:
            contents.ask_at_prefetch(model)


def _promote(contents: Contents, now_ns: int) -> None:
    """Move up what has waited for long enough; refuse late requests that are out of reach."""
    for model in contents.models.values():
        for group in model.queue.groups.values():
            if group.promote_at_ns <= now_ns:
                promote(group, model, now_ns)
        if model.late.waiting and model.late.backlog:
            late = LateQueue(model, contents.fleet, now_ns)
            out_of_reach = late.beyond_reach()
            refuse_late(out_of_reach, model, contents.ledger, now_ns, late.wait_ns())


def _dispatch_all(contents: Contents, now_ns: int) -> None:
    sequences = contents.ledger.sequences
    while True:
        if sequences.released:
            release_steps(contents)
        formation = form(contents.models, contents.fleet, contents.live, now_ns)
        contents.ask_again_ns = formation.ask_again_ns
        failed = _report_failed_policies(contents) if contents.policy_errors else ()
        # What is given up stood before the batch: without it the batch is its class's front.
        for model, requests in formation.given_up:
            _give_up(contents, model, requests)
        if formation.proposal is not None:
            dispatch(contents, formation.proposal, now_ns)
        for model in failed:
            reorder(model, now_ns, was_deadline_aware=True)
        if formation.proposal is None and not formation.given_up and not failed:
            return
        asleep = all(model.asleep(now_ns) for model in contents.models.values())
        if asleep and not sequences.released:
            contents.ask_again_ns = None
            return


def _report_failed_policies(contents: Contents) -> list[Model]:
    """Report the policies that have failed since the last report. Returns their models."""
    failed: list[Model] = []
    for model, error in contents.policy_errors:
        contents.ledger.commands.append(PolicyFailed(model.name, error))
        failed.append(model)
    contents.policy_errors.clear()
    return failed


def _give_up(contents: Contents, model: Model, requests: Sequence[LiveRequest]) -> None:
    """Make requests late that cannot be in time, or only at the cost of others; or refuse them.

    Beside idle instances, as many of them are next, less what else waits.
    """
    late = LateQueue(model, contents.fleet, contents.now_ns)
    spare = late.spare_instances(len(requests)) if model.serves_late else 0
    refused = late.give_up(requests, requests[:spare])
    refuse_late(refused, model, contents.ledger, contents.now_ns, late.wait_ns())
