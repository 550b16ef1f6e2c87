"""A request from admission to its end, and where its reply goes."""

from __future__ import annotations

from typing import Protocol

from batcher.core.commands import Blame, Outcome, Reason
from batcher.core.settings import ModelSettings
from batcher.errors import RequestError
from batcher.executor import BatchResult
from batcher.runtime.interface.forwarded import CallerMetadata
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padding
from batcher.runtime.interface.signature import RequestSummary
from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.runtime.sequences import Step
from batcher.telemetry.reasons import ReplyReason
from batcher.telemetry.stamps import Stamps
from batcher.telemetry.tracing.context import TraceContext
from batcher.tensors import Tensor


class ReplySink(Protocol):
    """Gets a request's reply. Ended exactly once, by `send(..., last=True)` or by `fail`."""

    def send(self, part: InferenceReply, *, last: bool) -> None:
        """Take one part of the reply."""
        ...

    def fail(self, error: RequestError) -> None:
        """End the reply with an error."""
        ...


class BatchReplies:
    """Counts the replies of one batch that are not yet sent: `left`, of `rows` rows, since `done_ns`.

    A reply that was cancelled or failed counts as sent.
    """

    __slots__ = ("done_ns", "left", "rows")

    def __init__(self, left: int, rows: int, done_ns: int) -> None:
        self.left = left
        self.rows = rows
        self.done_ns = done_ns


class PendingRequest:
    """One request from admission to its end.

    `padding` is that of its last batch, None if nothing is padded. `result`, `offset` (its first row
    in the batch) and `replies` are set when its batch has executed; `failure` is the executor's
    message when that failed, `blame` says why a prediction
    refused it. For a request that is split over several batches, `pieces` holds the
    outputs of the parts that are done, by their first row.
    """

    __slots__ = (
        "batches",
        "blame",
        "failure",
        "id",
        "offset",
        "outcome",
        "padding",
        "pieces",
        "reason",
        "replies",
        "reply",
        "request",
        "result",
        "stamps",
        "step",
        "summary",
        "target",
        "trace",
    )

    def __init__(
        self,
        request_id: int,
        request: InferenceRequest,
        target: TargetModel,
        summary: RequestSummary,
        reply: ReplySink,
        step: Step | None = None,
    ) -> None:
        self.id = request_id
        self.request = request
        self.target = target
        self.summary = summary
        self.reply = reply
        self.step = step
        """Which step of a sequence it is; None for a request that stands alone."""
        self.stamps = Stamps(request.arrival_ns)
        self.result: BatchResult | None = None
        self.pieces: dict[int, dict[str, Tensor]] | None = None
        self.offset = 0
        self.padding: Padding | None = None
        self.replies: BatchReplies | None = None
        self.failure: str | None = None
        self.batches: tuple[int, ...] = ()
        """The batches that it was dispatched in, in order."""
        self.trace: TraceContext | None = None
        """Its trace context, where that must be known before it ends."""
        self.outcome: Outcome | None = None
        self.blame: Blame | None = None
        self.reason: Reason | ReplyReason = Reason.NONE

    @property
    def metadata(self) -> CallerMetadata:
        """The metadata of its call."""
        return self.request.metadata


class TargetModel(Protocol):
    """What the runner needs of the model that a request is for."""

    @property
    def key(self) -> str:
        """Its name in events and commands."""
        ...

    @property
    def name(self) -> str:
        """Its name in requests."""
        ...

    @property
    def version(self) -> str:
        """Its version in requests."""
        ...

    @property
    def device(self) -> str:
        """The device that its instances are on."""
        ...

    @property
    def device_failure(self) -> str:
        """Why that device has failed; empty if it has not, or nothing is known."""
        ...

    @property
    def settings(self) -> ModelSettings:
        """Its settings as the scheduler reads them."""
        ...

    @property
    def padding(self) -> Padding | None:
        """How its variable axes are padded; None if they are not."""
        ...

    @property
    def layout(self) -> Layout:
        """Which of its inputs and outputs have a batch axis."""
        ...
