"""What was executed, on which device, and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from truth.statements.live import HANDED_NS
from truth.statements.statement import RATIO, at_the_end, constant, every, of
from truth.world import NEVER_NS, SECOND, Batch, Scrape, Span, World, union_ns


def ended(world: World, model: str) -> list[Batch]:
    """The batches of requests that came back, failed ones included."""
    return [batch for batch in world.run(model) if batch.end_ns is not None]


def rows(world: World, batch: Batch, request: int | None = None) -> int:
    """Its rows that requests sent, or one of them; the rest fills it up to a size."""
    counts = Counter(batch.ids)
    mine = batch.requests if request is None else {request}
    return sum(min(counts[each], world.requests[each].rows) for each in mine)


def _histogram(world: World, name: str, value: Callable[[str, Batch], float]) -> Iterator[str]:
    """A histogram of batches: exact counts at the end, bounds at every scrape."""
    for model in world.models:
        batches = ended(world, model)
        values = [value(model, batch) for batch in batches]
        count = Span(len(values), len(values))
        yield from at_the_end(world, f"{name}_count", count, model=model)
        total = Span(sum(values), sum(values))
        yield from at_the_end(world, f"{name}_sum", total, model=model, slack=1e-6)
        for key in world.found(f"{name}_bucket", model=model):
            limit = dict(key)["le"]
            below = sum(each <= float(limit) + 1e-9 for each in values)
            truth = Span(below, below)
            yield from at_the_end(world, f"{name}_bucket", truth, model=model, le=limit)

        def so_far(scrape: Scrape) -> Span:
            ends = [batch.end_ns for batch in batches if batch.end_ns]  # noqa: B023
            low = sum(end_ns + 4 * HANDED_NS < scrape.begin_ns for end_ns in ends)
            return Span(low, sum(end_ns <= scrape.end_ns for end_ns in ends))

        yield from every(world, f"{name}_count", so_far, model=model)


@of("batcher_batch_rows")
def batch_rows(world: World) -> Iterator[str]:
    yield from _histogram(world, "batcher_batch_rows", lambda _, batch: rows(world, batch))


@of("batcher_batch_requests")
def batch_requests(world: World) -> Iterator[str]:
    yield from _histogram(world, "batcher_batch_requests", lambda _, b: len(b.requests))


@of("batcher_batch_fill_ratio")
def batch_fill(world: World) -> Iterator[str]:
    def fill(model: str, batch: Batch) -> float:
        most: int = world.models[model]["batching"]["max_batch_size"]
        return rows(world, batch) / most

    yield from _histogram(world, "batcher_batch_fill_ratio", fill)


@of("batcher_batch_elements")
def elements(world: World) -> Iterator[str]:
    name = "batcher_batch_elements_total"
    for model, section in world.models.items():
        if "batch_sizes" not in section["batching"] and not section["padding"]:
            if world.found(name, model=model):
                yield f"{model}: it has neither buckets nor sizes"
            continue
        sent = sum(
            rows(world, batch, each) * world.requests[each].columns
            for batch in ended(world, model)
            for each in batch.requests
        )
        ran = sum(batch.rows * batch.width for batch in ended(world, model))
        for kind, true in (("request", sent), ("padding", ran - sent)):
            yield from at_the_end(world, name, Span(true, true), model=model, kind=kind)


def device_of(world: World, model: str) -> str:
    """The device that a model runs on."""
    return str(world.models[model].get("device", "cpu"))


def busy_s(world: World, batches: list[Batch]) -> Callable[[Scrape], Span]:
    """For how long at least one of them ran, up to a scrape.

    The server gives a batch away when its last request has come, at the earliest, and has it back before
    the first of its callers has an answer. One that hangs runs until it is given up (`lost`).
    """
    lost_ns, gone_ns = world.event("lost") or NEVER_NS, world.event("gone") or NEVER_NS
    surely, maybe = [], []
    for batch in batches:
        mine = [world.requests[each] for each in batch.requests]
        surely.append((batch.begin_ns, lost_ns if batch.end_ns is None else batch.end_ns))
        first_ns = min(batch.begin_ns, max(each.sent_ns for each in mine))
        if any(len(each.batches) > 1 for each in mine):
            first_ns = batch.begin_ns - HANDED_NS
        last_ns = gone_ns
        if batch.end_ns is not None:
            last_ns = max(batch.end_ns, min(each.done_ns for each in mine))
        maybe.append((first_ns, last_ns))

    def truth(scrape: Scrape) -> Span:
        low, high = union_ns(surely, scrape.begin_ns), union_ns(maybe, scrape.end_ns)
        return Span(low / SECOND, high / SECOND)

    return truth


@of("batcher_executor_busy_seconds")
def executor_busy(world: World) -> Iterator[str]:
    name = "batcher_executor_busy_seconds_total"
    for model in world.models:
        truth = busy_s(world, world.run(model))
        labels = {"model": model, "device": device_of(world, model)}
        yield from every(world, name, truth, ratio=RATIO, slack=0.05, **labels)


constant("batcher_unfinished_batches", 0, sample="batcher_unfinished_batches_total")
constant("batcher_policy_failures", 0, sample="batcher_policy_failures_total")


def _parts(world: World, model: str) -> tuple[list[Batch], list[Batch], list[Batch]]:
    """Batches that failed first; those that were surely parts of such a one; and those that may have been.

    What is cleared goes back to the queue, and runs with others or alone. A part has none that is new, and
    the first one runs at once.
    """
    first: list[Batch] = []
    surely: list[Batch] = []
    maybe: list[Batch] = []
    before: Batch | None = None
    for batch in ended(world, model):
        mine = [world.requests[each] for each in batch.requests]
        if all(each.batches[0] is not batch for each in mine):
            maybe.append(batch)
            if (before is not None and before.failed) or (len(mine) == 1 and batch.failed):
                surely.append(batch)
        elif batch.failed and len(mine) > 1:
            first.append(batch)
        before = batch
    return first, surely, maybe


@of("batcher_bisections")
def bisections(world: World) -> Iterator[str]:
    for model in world.models:
        first, _, maybe = _parts(world, model)
        more = sum(batch.failed and len(batch.requests) > 1 for batch in maybe)
        true = Span(len(first), len(first) + more)
        yield from at_the_end(world, "batcher_bisections_total", true, model=model)


@of("batcher_bisection_executions")
def bisection_executions(world: World) -> Iterator[str]:
    name = "batcher_bisection_executions_total"
    for model in world.models:
        _, surely, maybe = _parts(world, model)
        yield from at_the_end(world, name, Span(len(surely), len(maybe)), model=model)


constant("batcher_failure_storm", 0)


@of("batcher_batch_ceiling_rows")
def ceiling(world: World) -> Iterator[str]:
    for model, section in world.models.items():
        most = section["batching"]["max_batch_size"]
        truth = Span(most, most)
        yield from every(world, "batcher_batch_ceiling_rows", truth, model=model)


@of("batcher_prediction_margin_ratio")
def margin(world: World) -> Iterator[str]:
    """How uneven the server finds its batches, which it alone can know; never below 1."""
    for model in world.models:
        truth = Span(1, 2 if world.event("lost") is None else 1e9)
        yield from every(world, "batcher_prediction_margin_ratio", truth, model=model)


@of("batcher_prediction_drift_ratio")
def drift(world: World) -> Iterator[str]:
    """The emulated device never becomes slower."""
    for model in world.models:
        name = "batcher_prediction_drift_ratio"
        yield from at_the_end(world, name, Span(1, 1), ratio=2 * RATIO, model=model)


@of("batcher_prediction_handling_seconds")
def handling(world: World) -> Iterator[str]:
    """Less than lies between the ends of executions and the answers that callers got."""
    for model in world.models:
        after = [
            each.done_ns - (each.batches[-1].end_ns or 0)
            for each in world.of(model)
            if each.code == "OK"
        ]
        most_s = max(after, default=0) / SECOND + 0.02
        name = "batcher_prediction_handling_seconds"
        yield from every(world, name, Span(0, most_s), model=model)


constant("batcher_prediction_copy_seconds", 0)
