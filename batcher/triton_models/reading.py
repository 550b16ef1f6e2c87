"""From a `config.pbtxt`, or the JSON that a load call carries, to a `ModelConfig` message.

Everything wrong is a `ConfigError`, which names the file, the line, the field and what is allowed. A
field that the schema does not have is no error, because newer servers have more: it is in `unknown`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor

from batcher.config.section import KeyPath, dotted, nearest
from batcher.errors import ConfigError, on_one_line
from batcher.protocol import model_config
from batcher.triton_models.text import Fields, fields_of

MAX_CONFIG_BYTES: Final = 256 * 1024
"""Bytes of a `config.pbtxt`, or of the JSON of a load call. Reading this much takes a second or two on a
thread; files in use have a few kilobytes."""

_PLACE: Final = re.compile(r"^(?P<line>\d+):\d+ : (?:'(?P<shown>.*)': )?(?P<text>.*)$", re.DOTALL)
_ENUM: Final = re.compile(
    r'Enum type "inference\.(?P<name>[\w.]+)" has no value named (?P<got>\w+)'
)
_SCHEMA: Final[Any] = model_config.ModelConfig.DESCRIPTOR


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """A model's configuration in Triton's words, and where each field of it stands."""

    message: model_config.ModelConfig
    source: str = "config.pbtxt"
    """What problems are reported for: the path of the file, or the name of the call's parameter."""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    """Line (from 1) of each field that is given; 0 for JSON."""
    unknown: tuple[KeyPath, ...] = ()
    """Fields that the schema does not have, in the order of the text."""

    def placed(self, path: KeyPath, text: str) -> str:
        """`text` about a field, after the field's path and line."""
        inner = path
        while inner and inner not in self.lines:
            inner = inner[:-1]
        line = self.lines.get(inner)
        return f"{dotted(path)}{f' (line {line})' if line else ''}: {text}"

    def unknown_fields(self) -> list[str]:
        """What is said of each unknown field: its path and line, and what was perhaps meant."""
        return [self.placed(path, _unknown(path)) for path in self.unknown]


def read_config(path: Path) -> TritonConfig:
    """Read a `config.pbtxt`. Raises `ConfigError`, also if the file cannot be read."""
    source = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], source=source) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"not UTF-8 text, at byte {error.start}"], source=source) from None
    return parse_text(text, source)


def parse_text(text: str, source: str = "config.pbtxt") -> TritonConfig:
    """Read the text of a `config.pbtxt`. Raises `ConfigError`."""
    _check_size(text, source)
    message = model_config.ModelConfig()
    try:
        text_format.Parse(text, message, allow_unknown_field=True)
        found = fields_of(text, _SCHEMA)
    except text_format.ParseError as error:
        raise ConfigError([_syntax(str(error), text)], source=source) from None
    except RecursionError:
        raise ConfigError(["nested too deeply"], source=source) from None
    return TritonConfig(message, source, found.lines, tuple(found.unknown))


def parse_json(text: str, source: str = "parameter config") -> TritonConfig:
    """Read the JSON form of a `config.pbtxt`. Raises `ConfigError`."""
    _check_size(text, source)
    message = model_config.ModelConfig()
    found = Fields()
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ConfigError(["got a value; allowed: an object with fields"], source=source)
        json_format.ParseDict(_known(document, _SCHEMA, (), found), message)
    except json_format.ParseError as error:
        raise ConfigError([on_one_line(str(error))], source=source) from None
    except ValueError as error:
        raise ConfigError([f"not JSON: {on_one_line(str(error))}"], source=source) from None
    except RecursionError:
        raise ConfigError(["nested too deeply"], source=source) from None
    return TritonConfig(message, source, found.lines, tuple(found.unknown))


def _check_size(text: str, source: str) -> None:
    if len(text) > MAX_CONFIG_BYTES:
        allowed = f"larger than a configuration may be; allowed: {MAX_CONFIG_BYTES} bytes"
        raise ConfigError([allowed], source=source)


def _syntax(error: str, text: str) -> str:
    """The complaint of protobuf with its line, and the names of an enum instead of none."""
    match = _PLACE.match(error)
    if match is None:
        return on_one_line(error)
    complaint = match["text"].rstrip(".")
    enum = _ENUM.search(complaint)
    if enum is not None:
        complaint = f"got {enum['got']}; allowed: {', '.join(_enum_names(enum['name']))}"
    line = int(match["line"])
    lines = text.splitlines()
    shown = lines[line - 1].strip() if line <= len(lines) else ""
    return on_one_line(f"line {line}: {complaint}{f' (in {shown[:80]})' if shown else ''}")


def _enum_names(name: str) -> list[str]:
    """The values of an enum, by its name below `inference`."""
    enum: Any = model_config
    for step in name.split("."):
        enum = getattr(enum, step)
    return list(enum.keys())


def _known(value: Any, schema: Descriptor, path: KeyPath, found: Fields) -> Any:
    """The value without the keys that the schema does not have; what is given goes to `found`."""
    if not isinstance(value, dict):
        return value
    by_json_name = {known.json_name: known for known in schema.fields}
    result: dict[str, Any] = {}
    for key, child in value.items():
        known = schema.fields_by_name.get(key) or by_json_name.get(key)
        if known is None:
            found.unknown.append((*path, key))
            continue
        here = (*path, known.name)
        found.lines[here] = 0
        result[key] = _known_below(child, known.message_type, here, found)
    return result


def _known_below(value: Any, schema: Descriptor | None, path: KeyPath, found: Fields) -> Any:
    """As `_known`, for the value of a field: of a message, several, a map of them, or something else."""
    if schema is None:
        return value
    if schema.GetOptions().map_entry and isinstance(value, dict):
        values = schema.fields_by_name["value"].message_type
        return {k: _known_below(v, values, (*path, k), found) for k, v in value.items()}
    if isinstance(value, list):
        return [_known(v, schema, (*path, place), found) for place, v in enumerate(value)]
    return _known(value, schema, path, found)


def _unknown(path: KeyPath) -> str:
    schema: Descriptor | None = _SCHEMA
    for step in path[:-1]:
        if schema is not None and isinstance(step, str):
            known = schema.fields_by_name.get(step)
            schema = None if known is None else known.message_type
    hint = None if schema is None else nearest(str(path[-1]), schema.fields_by_name)
    return f"unknown field; ignored{f' (did you mean {hint}?)' if hint else ''}"
