"""The ledger: all live requests, and the commands that say how they ended.

A request enters it when it is admitted, and leaves it in the step that settles it, wherever it is
then: in the queue, in a suspect group, or in running batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from batcher.core.commands import (
    FAILURE_REASONS,
    Blame,
    Command,
    Outcome,
    Reason,
    Settle,
    failure_outcome,
)
from batcher.core.devices.fleet import Fleet
from batcher.core.events import FailureCause
from batcher.core.history import InvalidTransition
from batcher.core.model import Model
from batcher.core.queueing.expiry import ExpiryHeap
from batcher.core.queueing.request import LiveRequest, queued
from batcher.core.queueing.sequences import SequenceSteps
from batcher.core.requests.refusals import FAILURE_RETRY_NS, Refusal


class Ledger:
    """Live requests, the expiry of those that wait, and the commands of this step, in order."""

    __slots__ = ("commands", "expiry", "fleet", "live", "models", "sequences")

    def __init__(self, models: Mapping[str, Model], fleet: Fleet) -> None:
        self.models = models
        self.fleet = fleet
        self.live: dict[int, LiveRequest] = {}
        self.expiry = ExpiryHeap(self.live)
        self.sequences = SequenceSteps()
        self.commands: list[Command] = []

    def take_commands(self) -> list[Command]:
        """Returns this step's commands and forgets them."""
        commands, self.commands = self.commands, []
        return commands

    def settle(
        self,
        ids: tuple[int, ...],
        outcome: Outcome,
        reason: Reason = Reason.NONE,
        *,
        retry_ns: int | None = None,
        blame: Blame | None = None,
    ) -> None:
        """Add a `Settle` for requests that are not live any more; none where `ids` is empty."""
        if ids:
            self.commands.append(Settle(ids, outcome, reason, retry_ns, blame))

    def turn_away(self, request_id: int, refusal: Refusal) -> None:
        """End a request that was not admitted."""
        self.settle(
            (request_id,),
            refusal.outcome,
            refusal.reason,
            retry_ns=refusal.retry_ns,
            blame=refusal.blame,
        )

    def done(self, ids: tuple[int, ...]) -> None:
        """End requests of which all rows were executed. Raises `InvalidTransition` if one is not live."""
        live, request_id = self.live, 0
        if self.sequences.steps:
            for request in [live[i] for i in ids if i in live]:
                if request.arrived.sequence is not None:
                    self.sequences.ended(request)
        try:
            for request_id in ids:
                del live[request_id]
        except KeyError:
            raise InvalidTransition(request_id, "is done, but is not live") from None
        self.settle(ids, Outcome.OK)

    def refuse(
        self,
        waiting: Iterable[LiveRequest],
        reason: Reason,
        *,
        retry_ns: int | None = None,
        blame: Blame | None = None,
    ) -> None:
        """End admitted requests that will not be served. Raises `InvalidTransition` if one is not live."""
        requests = list(waiting)
        for request in requests:
            self.forget(request)
        refused = tuple([request.id for request in requests])
        self.settle(refused, Outcome.REJECTED, reason, retry_ns=retry_ns, blame=blame)

    def fail(
        self, ids: Iterable[int], cause: FailureCause, retry_after_ns: int | None = None
    ) -> None:
        """End requests as failed, with all rows of theirs that still wait or run.

        `retry_after_ns` is what the backend says, if it does. Raises `InvalidTransition` if one is not live.
        """
        failed = tuple(sorted(ids))
        for request_id in failed:
            request = self.live.get(request_id)
            if request is None:
                raise InvalidTransition(request_id, f"has failed ({cause}), but is not live")
            self.forget(request)
        retry_ns = FAILURE_RETRY_NS.get(cause) if retry_after_ns is None else retry_after_ns
        self.settle(failed, failure_outcome(cause), FAILURE_REASONS[cause], retry_ns=retry_ns)

    def forget(self, request: LiveRequest) -> None:
        """Remove a live request from wherever it waits; a batch that runs it goes on without it.

        The caller settles it. Raises `InvalidTransition` if it is not live.
        """
        request_id = request.id
        if self.live.get(request_id) is not request:
            raise InvalidTransition(request_id, f"is given up, but is not live: {request}")
        del self.live[request_id]
        if request.arrived.sequence is not None:
            self.sequences.ended(request)
        if request.batch_id is None:
            model = self.models[request.arrived.model]
            if request.held:
                model.queue.release(request)
            # The first is what `queued` says, without a call for most requests.
            elif (request.split is None and not request.suspect_parts) or queued(request):
                model.queue.discard(request)
            if request.suspect_parts:
                model.bisections.discard(request_id)
            if request.expires_ns is not None:
                self.expiry.discard(request)
            if request.split is None:
                return
        batches = (request.batch_id,) if request.split is None else request.split.batches
        running = self.fleet.batches
        for batch_id in batches:
            if batch_id in running:
                running[batch_id].unreported.discard(request.id)
