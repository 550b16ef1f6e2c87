"""`batcher schema`: the configuration's JSON Schema, for editors."""

from __future__ import annotations

import typer

from batcher.cli.exits import reported

EPILOG = """
Example:

- `batcher schema > batcher.schema.json`, and as the first line of the configuration
  `# yaml-language-server: $schema=batcher.schema.json`.
"""


def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors that complete and check."""
    with reported():
        import json

        from batcher.config import json_schema

        typer.echo(json.dumps(json_schema(), indent=2))
