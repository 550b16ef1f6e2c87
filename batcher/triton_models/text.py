"""Where the fields of a protobuf text are: the line of each, and those that the schema does not have.

protobuf's own parser drops unknown fields without a word, and forgets lines. This walk follows a text
that protobuf has parsed already, so that its grammar is known to be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from batcher.config.section import KeyPath

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<word>[A-Za-z0-9_.+]+)
    |(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING: Final = {"{": "}", "<": ">"}


@dataclass(slots=True)
class Fields:
    """The fields of a text: the line (from 1) of each path, and the paths of unknown fields."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    unknown: list[KeyPath] = field(default_factory=list)


def fields_of(text: str, message: Descriptor) -> Fields:
    """The fields of a text that protobuf takes as a `message`. Places in repeated fields count from 0."""
    found = Fields()
    walk = _Walk(text, found)
    walk.message((), message, "")
    return found


class _Walk:
    """One token ahead in the text."""

    def __init__(self, text: str, found: Fields) -> None:
        self._tokens = _tokens(text)
        self._found = found
        self._word, self._line, self._kind = next(self._tokens)

    def message(self, path: KeyPath, schema: Descriptor | None, end: str) -> None:
        """Walk the fields up to the token `end`; a `schema` of None is inside an unknown field."""
        counts: dict[str, int] = {}
        while self._word != end and self._kind != "end":
            if self._word in {",", ";"}:
                self._next()
                continue
            line, name = self._line, self._name()
            known = None if schema is None else schema.fields_by_name.get(name)
            if schema is not None and known is None:
                self._found.unknown.append((*path, name))
            self._found.lines.setdefault((*path, name), line)
            if self._word == ":":
                self._next()
            below = None if known is None else known.message_type
            repeated = known is not None and _is_repeated(known)
            if self._word == "[":
                self._list((*path, name), below, counts, repeated=repeated)
            else:
                place = _place((*path, name), counts) if repeated else (*path, name)
                self._value(place, below)

    def _list(
        self, path: KeyPath, schema: Descriptor | None, counts: dict[str, int], *, repeated: bool
    ) -> None:
        self._next()
        while self._word != "]" and self._kind != "end":
            if self._word == ",":
                self._next()
                continue
            self._value(_place(path, counts) if repeated else path, schema)
        self._next()

    def _value(self, path: KeyPath, schema: Descriptor | None) -> None:
        self._found.lines.setdefault(path, self._line)
        closing = _CLOSING.get(self._word) if self._kind == "sign" else None
        if closing is not None:
            self._next()
            self.message(path, schema, closing)
            self._next()
            return
        if self._word == "-":
            self._next()
        first = self._kind
        self._next()
        while first == self._kind == "text":  # adjacent texts are one
            self._next()

    def _name(self) -> str:
        """The name of a field; those of extensions and of types in brackets as they are written."""
        name = self._word
        if name != "[":
            self._next()
            return name
        while self._word != "]" and self._kind != "end":
            self._next()
            name += self._word
        self._next()
        return name

    def _next(self) -> None:
        self._word, self._line, self._kind = next(self._tokens)


def _is_repeated(known: FieldDescriptor) -> bool:
    """Whether a field may be given several times."""
    repeated: bool | None = getattr(known, "is_repeated", None)
    if repeated is None:  # protobuf before 6.31
        return bool(known.label == FieldDescriptor.LABEL_REPEATED)  # type: ignore[attr-defined]
    return repeated


def _place(path: KeyPath, counts: dict[str, int]) -> KeyPath:
    name = str(path[-1])
    place = counts.get(name, 0)
    counts[name] = place + 1
    return (*path, place)


def _tokens(text: str) -> Iterator[tuple[str, int, str]]:
    """Each token with its line and kind, then an `end` for good."""
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind != "space":
            yield match[0], line, kind
        line += match[0].count("\n")
    while True:
        yield "", line, "end"
