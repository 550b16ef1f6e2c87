"""`batcher schema`: the configuration's JSON Schema, for editors."""

from __future__ import annotations

import typer

from batcher.cli.exits import reported

EPILOG = """
Example:

- `batcher schema > batcher.schema.json`, and this first line in the configuration file:
  `# yaml-language-server: $schema=batcher.schema.json`. Editors with a YAML language server then complete
  keys, show what they mean and mark mistakes.
"""


def schema() -> None:
    """Print the JSON Schema of the configuration file: every key, its type, default and meaning."""
    with reported():
        import json

        from batcher.config import json_schema

        typer.echo(json.dumps(json_schema(), indent=2))
