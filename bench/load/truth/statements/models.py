"""Models are loaded, lost and loaded again; sequences and the model repository."""

from __future__ import annotations

from collections.abc import Iterator

from truth.statements.statement import RATIO, absent, at_the_end, constant, every, of
from truth.world import MS, SECOND, Scrape, Span, World


def _loads_s(world: World, model: str) -> list[tuple[Span, Span]]:
    """Of each load that ended in time: what it took, and its warm-up of that."""
    found = []
    life = world.life[model]
    for began in (each for each in life if each["kind"] == "loading"):
        me = began["pid"], began["me"], began["instance"]
        loaded = [
            each["at"]
            for each in life
            if each["kind"] == "loaded"
            and (each["pid"], each["me"], each["instance"]) == me
            and each["at"] >= began["at"]
        ]
        warm = [
            batch
            for batch in world.batches[model]
            if not batch.requests and (batch.pid, batch.me) == me[:2]
        ]
        ends = [batch.end_ns for batch in warm if batch.end_ns is not None]
        if loaded and ends:
            whole, part = (max(ends) - began["at"]) / SECOND, (max(ends) - loaded[0]) / SECOND
            found.append((Span(whole, whole + _start_s(world)), Span(part, part)))
    return found


def _start_s(world: World) -> float:
    """What else a load may take: a child's own start, or an import."""
    return (
        15.0 if any(model.get("isolation") == "process" for model in world.models.values()) else 2.0
    )


@of("batcher_model_load_duration_seconds")
def load_duration(world: World) -> Iterator[str]:
    yield from _of_loads(world, "batcher_model_load_duration_seconds", 0)


@of("batcher_model_warmup_duration_seconds")
def warmup_duration(world: World) -> Iterator[str]:
    yield from _of_loads(world, "batcher_model_warmup_duration_seconds", 1)


def _of_loads(world: World, name: str, which: int) -> Iterator[str]:
    for model in world.models:
        loads = [each[which] for each in _loads_s(world, model)]
        count = Span(len(loads), len(loads))
        yield from at_the_end(world, f"{name}_count", count, model=model)
        whole = sum(loads, Span(0, 0))
        yield from at_the_end(world, f"{name}_sum", whole, ratio=RATIO, slack=0.05, model=model)


@of("batcher_model_first_answer_duration_seconds")
def first_answer(world: World) -> Iterator[str]:
    name = "batcher_model_first_answer_duration_seconds"
    generations = world.facts.get("generations", 1)
    for model in world.models:
        answered = sorted(
            (each for each in world.of(model) if each.code == "OK"), key=lambda e: e.done_ns
        )
        count = min(len(answered), generations)
        yield from at_the_end(world, f"{name}_count", Span(count, count), model=model)
        if count == 1:
            # Those that were answered at once may have been counted in another order.
            near = [e for e in answered if e.done_ns < answered[0].done_ns + 50 * MS]
            low = min(e.earliest_end_ns - e.sent_ns for e in near) / SECOND
            high = max(e.latency_ns for e in near) / SECOND
            yield from at_the_end(world, f"{name}_sum", Span(low, high), slack=0.02, model=model)


constant("batcher_model_load_failures", 0, sample="batcher_model_load_failures_total")
constant("batcher_model_reloads", 0, sample="batcher_model_reloads_total")
constant("batcher_instance_losses", 0, sample="batcher_instance_losses_total")
constant("batcher_repeated_requests", 0, sample="batcher_repeated_requests_total")


@of("batcher_model_generation")
def generation(world: World) -> Iterator[str]:
    for model in world.models:
        number = world.facts.get("generations", 1)
        yield from at_the_end(world, "batcher_model_generation", Span(number, number), model=model)


@of("batcher_abandoned_threads")
def abandoned(world: World) -> Iterator[str]:
    hung = world.facts.get("abandoned", 0)
    for model in world.models:
        yield from at_the_end(world, "batcher_abandoned_threads", Span(hung, hung), model=model)


def _is_up(world: World, scrape: Scrape) -> Span:
    """1 while every instance is up, 0 while one is lost and none is back, of models with one."""
    lost_ns, back_ns = world.event("lost"), world.event("back")
    if scrape.begin_ns < (world.event("ready") or 0):
        return Span(0, 1)
    if lost_ns is None or scrape.end_ns < lost_ns:
        return Span(1, 1)
    if back_ns is not None and scrape.begin_ns > back_ns:
        return Span(1, 1)
    gone_ns = world.event("gone") or lost_ns
    surely_back_ns = world.event("loading") or back_ns
    if scrape.begin_ns > gone_ns and (surely_back_ns is None or scrape.end_ns < surely_back_ns):
        return Span(0, 0)
    return Span(0, 1)


@of("batcher_instance_state")
def instance_state(world: World) -> Iterator[str]:
    name = "batcher_instance_state"
    for model, section in world.models.items():
        numbers = {dict(labels)["number"] for labels in world.found(name, model=model)}
        if len(numbers) != section.get("instances", 1):
            yield f"{model}: instances {sorted(numbers)}"
        for number in sorted(numbers):
            labels = {"model": model, "number": number}
            if section.get("instances", 1) == 1:
                yield from every(
                    world, name, lambda scrape: _is_up(world, scrape), state="up", **labels
                )
            for scrape in world.scrapes:
                values = [
                    sample.value
                    for samples in world.found(name, **labels).values()
                    for sample in samples
                    if sample.at_ns == scrape.begin_ns
                ]
                if sum(values) != 1:
                    yield f"{labels}: {sum(values):g} states at once"


@of("batcher_model_state")
def model_state(world: World) -> Iterator[str]:
    for model, section in world.models.items():
        if section.get("instances", 1) == 1:
            yield from every(
                world,
                "batcher_model_state",
                lambda scrape: _is_up(world, scrape),
                model=model,
                state="ready",
            )


absent(
    "batcher_sequences_open",
    "batcher_sequence_state_bytes",
    "batcher_sequences_started",
    "batcher_sequences_ended",
    "batcher_sequence_steps_held",
)
absent(
    "batcher_model_repository_readable",
    "batcher_model_repository_models",
    "batcher_model_repository_broken_models",
    "batcher_model_repository_scans",
)
