"""When the suspects of a failed batch run again: before or after the batch that is next otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batcher.core.batching.proposal import Proposal, must_start_ns
from batcher.core.devices.instances import Instance
from batcher.core.model import Model
from batcher.core.queueing.ranks import BEST_EFFORT
from batcher.core.queueing.request import LiveRequest


def retry_of(
    model: Model, instance: Instance, live: Mapping[int, LiveRequest], now_ns: int
) -> Proposal:
    """Returns the model's suspect group that has waited longest, as a batch."""
    suspects = model.bisections.suspect_groups[0]
    requests = [live[part.id] for part in suspects.parts]
    rows = sum([part.stop - part.start for part in suspects.parts])
    times = model.times.get(suspects.shapes)
    expected_ns = times.curve[rows] if times and times.curve else 0.0
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
    )


def goes_before(
    retry: Proposal,
    other: Proposal | None,
    given_up: Sequence[tuple[Model, Sequence[LiveRequest]]],
    now_ns: int,
) -> bool:
    """Whether a retry goes before another batch.

    It does where the other can wait for it. Where only the retry can wait, the other goes first;
    where neither can, the order that makes fewer requests late. A retry waits no longer than for a
    promotion.
    """
    if any(r in retry.requests for _, requests in given_up for r in requests):
        return False  # Without what was given up its group is another one: ask again.
    if other is None:
        return True
    suspects = retry.suspects
    assert suspects is not None
    if now_ns - suspects.since_ns >= retry.model.settings.queue.promote_after_ns:
        return True
    if now_ns + retry.expected_ns <= must_start_ns(other, now_ns):
        return True
    if now_ns + other.expected_ns <= must_start_ns(retry, now_ns):
        return False
    return _made_late(other, retry, now_ns) <= _made_late(retry, other, now_ns)


def _made_late(waiting: Proposal, other: Proposal, now_ns: int) -> int:
    """Returns how many requests of a batch are in time now, and late after another batch."""
    done_ns = now_ns + waiting.expected_ns
    due_ns = [r.due_ns for r in waiting.requests if r.due_ns is not None and r.rank != BEST_EFFORT]
    return sum([done_ns <= due < done_ns + other.expected_ns for due in due_ns])
