"""`batcher profile`: measure what batches take on the configured executors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batcher.cli.configuration import ConfigPath, checked_config
from batcher.cli.exits import reported
from batcher.cli.repository import with_repository

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batcher.simulation.engine.profile import ModelProfile

EPILOG = """
The table has, for each batch size (and for each bucket of a padded model): the median and the 95 %
quantile of what a batch takes, the rows a second of batches of that size one after the other, and the
time for each row. Where rows/s stops growing, larger batches only add latency.

Exit codes: 0 when everything was measured; 1 when a model could not be loaded or a batch failed; 2
when the configuration or an option is wrong.

Examples:

- `batcher profile config.yaml` prints what batches of 1, 2, 4, ... rows take.

- `batcher profile config.yaml --suggest` goes on with `batcher suggest`: which target, batch size and
  limit suit these times.

- `batcher profile config.yaml -o profile.json`, then
  `batcher simulate config.yaml --profile profile.json --arrivals poisson --load 0.8`

- `batcher profile config.yaml --model minilm --sizes 1,8,32 --repeats 100`
"""


def profile(
    config: ConfigPath,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Also write the times to this file, as JSON in milliseconds, for `batcher simulate"
            " --profile` and `batcher suggest --profile`.",
        ),
    ] = None,
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
            help="Batch sizes in rows, such as `1,8,32`. [default: batch_sizes, or 1, 2, 4, ... and max_batch_size]",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Batches to time of each size.")
    ] = 20,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest",
            help="Also suggest a target and a batch size, as `batcher suggest` does without a rate.",
        ),
    ] = False,
) -> None:
    """Load the models, and measure and print how long a batch of each size takes.

    One instance of each model is loaded and warmed up, one model after the other; no server is needed
    and no port is opened. Batches have the contents of warm-up batches: zeros, or what `warmup.inputs`
    says, with the length `warmup.length` on variable axes and that of each bucket on padded ones. Run it
    on the machine that will serve, with nothing else on the device.
    """
    with reported():
        import asyncio

        from batcher.cli.measuring import chosen_models, measure_models, print_times, read_sizes
        from batcher.errors import InputError

        settings = with_repository(checked_config(config), config)
        models = chosen_models(settings, model)
        wanted = {name: read_sizes(found, sizes) for name, found in models.items()}
        if output is not None and (not output.absolute().parent.is_dir() or output.is_dir()):
            raise InputError(f"--output: got {output}; allowed: a file in a folder that exists")
        measured = asyncio.run(measure_models(settings, models, wanted, repeats))
        print_times(measured)
        if output is not None:
            _write(output, measured)
        if suggest:
            from batcher.cli.suggest import suggest_for

            for each in measured:
                suggest_for(settings, each)


def _write(output: Path, measured: Sequence[ModelProfile]) -> None:
    import json

    from batcher.errors import InputError
    from batcher.simulation.engine.profile import profile_document

    try:
        document = json.dumps(profile_document(measured), indent=2)
        output.write_text(f"{document}\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror}") from None
    typer.echo(f"written: {output}")
