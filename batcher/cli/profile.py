"""`batcher profile`: measure service times, for `batcher simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli.configuration import ConfigPath, checked_config
from batcher.cli.exits import reported

if TYPE_CHECKING:
    from batcher.config import Config, ModelConfig
    from batcher.simulation.engine.profile import ModelProfile

EPILOG = """
Exit codes: 0 when everything was measured; 1 when a model could not be loaded or a batch failed; 2
when the configuration or an option is wrong.

Examples:

- `batcher profile config.yaml -o profile.json`, then
  `batcher simulate config.yaml --profile profile.json --arrivals poisson --load 0.8`

- `batcher profile config.yaml -o profile.json --model minilm --sizes 1,8,32 --repeats 100`
"""


def profile(
    config: ConfigPath,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the profile here, as JSON with times in milliseconds.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Measure only this model. [default: all]", show_default=False
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="ROWS",
            help="Batch sizes in rows, such as `1,8,32`. [default: 1, 2, 4, ... and max_batch_size]",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Batches to time of each size.")
    ] = 20,
) -> None:
    """Load the models and measure how long a batch of each size takes.

    One instance of each model is loaded and warmed up, one model after the other. Batches have the
    contents of warm-up batches: zeros, or what `warmup.inputs` says, with the length `warmup.length` on
    variable axes. Run it on the machine that will serve, with nothing else on the device.
    """
    with reported():
        import asyncio
        import json

        from batcher.errors import InputError
        from batcher.simulation.engine.profile import profile_document

        settings = checked_config(config)
        models = _models(settings, model)
        wanted = {name: _sizes(found, sizes) for name, found in models.items()}
        if not output.absolute().parent.is_dir() or output.is_dir():
            raise InputError(f"--output: got {output}; allowed: a file in a folder that exists")
        measured = asyncio.run(_measure(settings, models, wanted, repeats))
        try:
            document = json.dumps(profile_document(measured), indent=2)
            output.write_text(f"{document}\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{output}: cannot be written: {error.strerror}") from None
        _print(measured)
        typer.echo(f"written: {output}")


def _models(config: Config, wanted: str | None) -> dict[str, ModelConfig]:
    from batcher.errors import InputError
    from batcher.simulation.engine.scenario import model_names

    known = model_names(config)
    if wanted is None:
        return known
    if wanted not in known:
        raise InputError(f"--model: got {wanted!r}; allowed: {', '.join(known)}")
    return {wanted: known[wanted]}


def _sizes(model: ModelConfig, text: str | None) -> tuple[int, ...]:
    """The sizes to measure, ascending; by default those that a warm-up measures."""
    from batcher.errors import InputError

    most = model.batching.most_rows
    if text is None:
        powers = (1 << exponent for exponent in range(most.bit_length()))
        return tuple(sorted({*powers, most}))
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 1 <= int(part) <= most for part in parts):
        raise InputError(
            f"--sizes: got {text!r}; allowed: 1 to {most}, the max_batch_size of {model.name},"
            " such as 1,8"
        )
    return tuple(sorted({int(part) for part in parts}))


async def _measure(
    config: Config,
    models: dict[str, ModelConfig],
    sizes: dict[str, tuple[int, ...]],
    repeats: int,
) -> list[ModelProfile]:
    from batcher import plugins
    from batcher.cli.progress import progress
    from batcher.clock import monotonic_ns
    from batcher.model_builder import instance_plan
    from batcher.runtime.instances.profiling import measure
    from batcher.simulation.engine.profile import ModelProfile, SizeProfile

    measured = []
    with progress(repeats * sum(len(s) for s in sizes.values())) as advance:
        for name, model in models.items():
            advance(name, 0)
            plan = instance_plan(model, 0, plugins.find_executor(model.executor), config.base_dir)
            took_ns = await measure(
                plan,
                sizes[name],
                repeats,
                monotonic_ns,
                lambda name=name: advance(name, 1),  # type: ignore[misc] # mypy infers no lambda with a default
            )
            profiles = {rows: SizeProfile.of(times) for rows, times in took_ns.items()}
            measured.append(
                ModelProfile(model.name, model.version, model.executor, model.device, profiles)
            )
    return measured


def _print(measured: list[ModelProfile]) -> None:
    from batcher.cli.results import table, wide_console

    found = table("model", "rows", "p50 ms", "p95 ms", "rows/s", texts=1)
    for profile_ in measured:
        for rows, size in profile_.sizes.items():
            p50 = size.quantiles["p50"]
            found.add_row(
                profile_.model,
                str(rows),
                f"{p50:.3f}",
                f"{size.quantiles['p95']:.3f}",
                f"{1000 * rows / p50:,.0f}" if p50 else "-",
            )
    wide_console().print(found)
