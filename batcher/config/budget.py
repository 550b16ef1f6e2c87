"""The section `budget` of a model: which part of the latency target each hop may take."""

from __future__ import annotations

from batcher.config.section import KeyPath, Section
from batcher.config.units import Duration, format_duration


class BudgetConfig(Section):
    """How `batching.target_p99` is split over the hops of a request. Nothing is refused or cut short for it."""

    upstream: Duration | None = None
    """What the caller may have spent before, as its metadata says (`x-batcher-spent-ms` or
    `x-batcher-start-ms`). With this key the target counts from there, in `batcher_late_answers_total` alone."""
    admission: Duration | None = None
    """From the arrival until the request is in the queue."""
    queue: Duration | None = None
    """In the queue, and until its execution begins."""
    execute: Duration | None = None
    """The execution, or from the first one to the last one."""
    reply: Duration | None = None
    """From the end of the execution until the last byte is handed to the transport."""

    def shares(self) -> dict[str, int]:
        """Hop -> its share in nanoseconds, of those that have one."""
        every = {
            "upstream": self.upstream,
            "admission": self.admission,
            "queue": self.queue,
            "execute": self.execute,
            "reply": self.reply,
        }
        return {hop: share_ns for hop, share_ns in every.items() if share_ns is not None}

    def free(self) -> list[str]:
        """The hops that have equal parts of what the shares leave: the server's own that have no share."""
        shares = self.shares()
        return [hop for hop in BudgetConfig.model_fields if hop != "upstream" and hop not in shares]


def budget_problems(
    budget: BudgetConfig | None, target_ns: int | None
) -> list[tuple[KeyPath, str]]:
    """What is wrong with a budget beside that target."""
    if budget is None:
        return []
    if target_ns is None:
        text = "no effect without a target to split; allowed: together with batching.target_p99"
        return [(("budget",), text)]
    shares = budget.shares()
    total_ns = sum(shares.values())
    if total_ns > target_ns:
        text = (
            f"{' + '.join(shares)} is {format_duration(total_ns)}; allowed: at most batching.target_p99,"
            f" which is {format_duration(target_ns)}"
        )
        return [(("budget",), text)]
    return []
