"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

from typing import Any

from batcher.config.repository import OVERRIDES, ModelRepositoryConfig
from batcher.config.root import Config

_SCALAR_CHECKS = ("type", "pattern", "enum", "const", "minimum", "maximum")
_REFERENCE = {"$ref": "#/$defs/EnvironmentReference"}


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) that takes every document that `parse_config` may take.

    It is looser where a schema cannot follow: checks between keys are missing, and a value that
    reads the environment passes unseen.
    """
    # Serialization mode writes defaults the way the file has them: "30s", not 30000000000.
    whole = Config.model_json_schema(mode="serialization")
    overrides = OVERRIDES.model_json_schema(mode="serialization")
    whole["$defs"] |= overrides.pop("$defs") | {OVERRIDES.__name__: overrides}
    defaults = whole["$defs"][ModelRepositoryConfig.__name__]["properties"]["defaults"]
    del defaults["type"]
    defaults["$ref"] = f"#/$defs/{OVERRIDES.__name__}"
    return finished(whole, "batcher configuration")


def finished(whole: dict[str, Any], title: str) -> dict[str, Any]:
    """What pydantic writes of a root section in serialization mode -> the schema for editors."""
    schema: dict[str, Any] = _for_editors(whole)
    schema["$defs"]["EnvironmentReference"] = {
        "type": "string",
        "pattern": r"\$\{.+\}",
        "description": "A value that reads the environment: ${NAME} or ${NAME:-default}.",
    }
    schema["title"] = title
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _for_editors(node: Any) -> Any:
    """Let every scalar that is not free text be a reference to the environment as well.

    Also drops the titles that pydantic makes up from the keys, and folds descriptions to one line.
    """
    if isinstance(node, list):
        return [_for_editors(item) for item in node]
    if not isinstance(node, dict):
        return node
    checks = {key: node[key] for key in _SCALAR_CHECKS if key in node}
    scalar = len(checks) > 1 or checks.get("type") == "integer"
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "description" and isinstance(value, str):
            result[key] = " ".join(value.split())
        elif key in ("default", "examples", "required"):
            result[key] = value
        elif not (key == "title" and isinstance(value, str)) and not (scalar and key in checks):
            result[key] = _for_editors(value)
    return result | {"anyOf": [checks, _REFERENCE]} if scalar else result
