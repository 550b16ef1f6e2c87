"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

from typing import Any

from batcher.config.root import Config

_REFERENCE = {"$ref": "#/$defs/EnvironmentReference"}


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) that takes every document that `parse_config` may take.

    It is looser where a schema cannot follow: checks between keys are missing, and a value that
    reads the environment passes unseen.
    """
    # Serialisation mode writes defaults the way the file has them: "30s", not 30000000000.
    schema: dict[str, Any] = _with_references(Config.model_json_schema(mode="serialization"))
    schema["$defs"]["EnvironmentReference"] = {
        "type": "string",
        "pattern": r"\$\{.+\}",
        "description": "A value that reads the environment: ${NAME} or ${NAME:-default}.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _with_references(node: Any) -> Any:
    """Let every scalar that is not free text be a reference to the environment as well."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    checks = {key: node[key] for key in _SCALAR_CHECKS if key in node}
    if checks and node.get("type") in ("string", "integer"):
        notes = {key: value for key, value in node.items() if key not in checks}
        return notes | {"anyOf": [checks, _REFERENCE]}
    node = {
        key: value for key, value in node.items() if key != "title" or node.get("type") == "object"
    }
    if isinstance(node.get("description"), str):
        node["description"] = " ".join(node["description"].split())
    return {
        key: value if key in ("default", "examples") else _with_references(value)
        for key, value in node.items()
    }


_SCALAR_CHECKS = ("type", "pattern", "enum", "const", "minimum", "maximum")
