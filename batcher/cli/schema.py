"""`batcher schema`: the configuration's JSON Schema, for editors."""

from __future__ import annotations

from typing import Annotated

import typer

from batcher.cli.exits import reported

EPILOG = """
Example:

- `batcher schema > batcher.schema.json`, and this first line in the configuration file:
  `# yaml-language-server: $schema=batcher.schema.json`. Editors with a YAML language server then complete
  keys, show what they mean and mark mistakes.
"""


def schema(
    *,
    scaler: Annotated[
        bool,
        typer.Option(
            "--scaler", help="That of the configuration file of `batcher scaler` instead."
        ),
    ] = False,
) -> None:
    """Print the JSON Schema of the configuration file: every key, its type, default and meaning."""
    with reported():
        import json

        if scaler:
            from batcher.scaler.config import scaler_schema as made
        else:
            from batcher.config import json_schema as made

        typer.echo(json.dumps(made(), indent=2))
