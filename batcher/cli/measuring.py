"""Measures what batches take, for `batcher profile` and `batcher suggest`, and prints the times."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batcher.config import Config, ModelConfig
    from batcher.simulation.engine.profile import ModelProfile, SizeProfile


def chosen_models(config: Config, wanted: str | None) -> dict[str, ModelConfig]:
    """The model that is named, or all. Raises `InputError` for a name that is not configured."""
    from batcher.errors import InputError
    from batcher.simulation.engine.scenario import model_names

    known = model_names(config)
    if wanted is None:
        return known
    if wanted not in known:
        raise InputError(f"--model: got {wanted!r}; allowed: {', '.join(known)}")
    return {wanted: known[wanted]}


def read_sizes(model: ModelConfig, text: str | None) -> tuple[int, ...]:
    """The sizes to measure, ascending; by default `batch_sizes`, or powers of two and the largest."""
    from batcher.errors import InputError

    most = model.batching.most_rows
    if text is None:
        if model.batching.sizes:
            return model.batching.sizes
        powers = (1 << exponent for exponent in range(most.bit_length()))
        return tuple(sorted({*powers, most}))
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 1 <= int(part) <= most for part in parts):
        raise InputError(
            f"--sizes: got {text!r}; allowed: 1 to {most}, the max_batch_size of {model.name},"
            " such as 1,8"
        )
    return tuple(sorted({int(part) for part in parts}))


async def measure_models(
    config: Config,
    models: dict[str, ModelConfig],
    sizes: dict[str, tuple[int, ...]],
    repeats: int,
) -> list[ModelProfile]:
    """Load each model, one after the other, and time its batches; says on standard error what it does.

    Raises `ModelLoadError`.
    """
    from batcher.cli.progress import progress
    from batcher.clock import monotonic_ns
    from batcher.model_builder import executor_maker, instance_plan
    from batcher.runtime.instances.profiling import measure
    from batcher.runtime.interface.padding_rules import read_padding_rules
    from batcher.simulation.engine.profile import ModelProfile, SizeProfile

    measured = []
    places = {id(model): place for place, model in enumerate(config.models)}
    total = sum(repeats * len(sizes[name]) * _buckets(model) for name, model in models.items())
    for name, model in models.items():
        typer.echo(_begins(name, model, sizes[name], repeats), err=True)
    with progress(total) as advance:
        for name, model in models.items():
            advance(name, 0)
            base_dir = config.base_dir_of(model)
            plan = instance_plan(model, 0, executor_maker(model, base_dir), base_dir)
            took_ns = await measure(
                plan,
                sizes[name],
                repeats,
                monotonic_ns,
                lambda name=name: advance(name, 1),  # type: ignore[misc] # mypy infers no lambda with a default
                read_padding_rules(model, f"models[{places[id(model)]}]."),
            )
            found = {
                length: {rows: SizeProfile.of(times) for rows, times in by_rows.items()}
                for length, by_rows in took_ns.items()
            }
            last = found[max(found, key=lambda length: length or 0)]
            buckets = {length: each for length, each in found.items() if length is not None}
            measured.append(
                ModelProfile(model.name, model.version, model.executor, model.device, last, buckets)
            )
    return measured


def _buckets(model: ModelConfig) -> int:
    """How many buckets are measured: every combination, up to those of a warm-up."""
    from batcher.runtime.interface.padding import MAX_WARMUP_BUCKETS

    combinations = prod(len(each) for each in {each.buckets for each in model.padding})
    return min(combinations, MAX_WARMUP_BUCKETS)


def _begins(name: str, model: ModelConfig, sizes: Sequence[int], repeats: int) -> str:
    buckets = f", {_buckets(model)} buckets" if model.padding else ""
    rows = "row" if tuple(sizes) == (1,) else "rows"
    return (
        f"measuring {name} with {model.executor} on {model.device}:"
        f" batches of {', '.join(map(str, sizes))} {rows}{buckets}, {repeats} of each"
    )


def print_times(measured: Sequence[ModelProfile]) -> None:
    """A row for each model, bucket and size."""
    from batcher.cli.results import table, wide_console

    padded = any(each.buckets for each in measured)
    headings = ("model", *(("bucket",) if padded else ()), "rows", "p50 ms", "p95 ms")
    found = table(*headings, "rows/s", "ms/row", texts=1)
    for each in measured:
        buckets: list[tuple[int | None, Mapping[int, SizeProfile]]]
        buckets = [*each.buckets.items()] or [(None, each.sizes)]
        for length, sizes in buckets:
            for rows, size in sizes.items():
                p50 = size.quantiles["p50"]
                found.add_row(
                    each.model,
                    *(("-" if length is None else str(length),) if padded else ()),
                    str(rows),
                    f"{p50:.3f}",
                    f"{size.quantiles['p95']:.3f}",
                    f"{1000 * rows / p50:,.0f}" if p50 else "-",
                    f"{p50 / rows:.3f}",
                )
    wide_console().print(found)
