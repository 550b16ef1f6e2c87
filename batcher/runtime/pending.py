"""A request on its walk through the runtime, and the port its answer leaves by."""

from __future__ import annotations

from typing import Protocol

from batcher.core.commands import Outcome, Reason
from batcher.errors import RequestError
from batcher.executor import BatchResult
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padding
from batcher.runtime.interface.signature import RequestSummary
from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.telemetry.reasons import ReplyReason
from batcher.telemetry.stamps import Stamps
from batcher.tensors import Tensor


class ReplyPort(Protocol):
    """Where a request's answer goes. It is closed by `last=True` or by `fail`, exactly once."""

    def send(self, part: InferenceReply, *, last: bool) -> None:
        """Hand on one part of the answer."""
        ...

    def fail(self, error: RequestError) -> None:
        """End without an answer (any further one)."""
        ...


class BatchReplies:
    """The answers of one batch on their way out: how many are left, of how many rows, since when.

    One that was given up or failed counts like one that has left: the others are waited for all the
    same.
    """

    __slots__ = ("done_ns", "left", "rows")

    def __init__(self, left: int, rows: int, done_ns: int) -> None:
        self.left = left
        self.rows = rows
        self.done_ns = done_ns


class PendingRequest:
    """One request from admission to its end.

    `padding` is that of the batch that its rows were last in, None where nothing is padded.
    `result`, `offset` (the first of its rows in the batch) and `replies` are set once its batch is
    executed, `failure` holds the executor's reason when that failed. Of a request whose rows run in
    several batches, `pieces` holds the outputs of those that are done, by their first row.
    """

    __slots__ = (
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
        "summary",
        "target",
    )

    def __init__(
        self,
        request_id: int,
        request: InferenceRequest,
        target: Target,
        summary: RequestSummary,
        reply: ReplyPort,
    ) -> None:
        self.id = request_id
        self.request = request
        self.target = target
        self.summary = summary
        self.reply = reply
        self.stamps = Stamps(request.arrival_ns)
        self.result: BatchResult | None = None
        self.pieces: dict[int, dict[str, Tensor]] | None = None
        self.offset = 0
        self.padding: Padding | None = None
        self.replies: BatchReplies | None = None
        self.failure: str | None = None
        self.outcome: Outcome | None = None
        self.reason: Reason | ReplyReason = Reason.NONE


class Target(Protocol):
    """The served model a request is for, as far as the runner needs to know it."""

    @property
    def key(self) -> str:
        """The scheduler's name of it."""
        ...

    @property
    def name(self) -> str:
        """The name callers use."""
        ...

    @property
    def version(self) -> str:
        """The version callers use."""
        ...

    @property
    def padding(self) -> Padding | None:
        """How its variable axes are padded; None where they are not."""
        ...

    @property
    def layout(self) -> Layout:
        """Which of its arrays are shared out by rows."""
        ...
