"""Encodes the core's events, commands and states as msgpack, and decodes them exactly.

Nothing here names a field: every dataclass of `batcher.core` that is reachable from `Event`,
`Command` and `State` can be recorded, so a new field needs no change here. A record is an array: its
code, then its fields in order. Every segment has a `schema` with the codes and the field names, so
that a log of another version is read by name. A field that the log lacks gets its default
(`Decoder.lacking` lists it); a field that this version does not know is an error. In the records of
the state only new concepts have defaults, because what a scheduler does next must not be guessed.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgpack

from batcher.core.commands import Command
from batcher.core.events import Event
from batcher.core.state import State
from batcher.errors import BatcherError

Schema: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""The name and the field names of each record; its index is the record's code."""

Reader: TypeAlias = Callable[[Any], Any]

_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1
"""The integers that msgpack can encode; others are recorded as the nearest of them."""

_SCALARS: Final = (int, float, str, bool, type(None))


class CodecError(BatcherError):
    """A value that cannot be encoded, or bytes that cannot be decoded."""


def _parts(hint: Any) -> Iterator[Any]:
    """The types that a type hint consists of."""
    if get_origin(hint) is None:
        yield hint
    for part in get_args(hint):
        yield from _parts(part)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


@cache
def _records() -> tuple[type, ...]:
    """Every record class that can be in a log; its index is its code."""
    found: dict[type, None] = {}
    left = [part for root in (*get_args(Event), *get_args(Command), State) for part in _parts(root)]
    while left:
        cls = left.pop(0)
        if isinstance(cls, type) and is_dataclass(cls) and cls not in found:
            found[cls] = None
            left += [part for hint in _hints(cls).values() for part in _parts(hint)]
    return tuple(found)


def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


def schema() -> Schema:
    """The schema of this version."""
    return tuple((cls.__name__, _names(cls)) for cls in _records())


class Encoder:
    """Encodes records and plain values. Not thread-safe."""

    def __init__(self) -> None:
        codes = {cls: code for code, cls in enumerate(_records())}
        flatten: dict[type, Callable[[Any], object]] = {
            cls: _flattener(cls, codes) for cls in codes
        }
        flatten[int] = _within
        self._packer = msgpack.Packer(
            default=lambda value: flatten[type(value)](value), unicode_errors="surrogatepass"
        )

    def pack(self, value: object) -> bytes:
        """Encode a value. Raises `CodecError` for a type that cannot be recorded."""
        try:
            packed: bytes = self._packer.pack(value)
        except KeyError as error:
            self._packer.reset()
            raise CodecError(f"a {error.args[0].__name__} cannot be recorded") from None
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            self._packer.reset()
            raise CodecError(f"cannot be recorded: {error}") from error
        return packed


def _within(value: int) -> int:
    """The nearest integer that msgpack can encode; called for those that it cannot."""
    return min(max(value, _LEAST), _MOST)


def _flattener(cls: type, codes: dict[type, int]) -> Callable[[Any], tuple[object, ...]]:
    """A function from a record to its code and fields, compiled for speed."""
    made: Callable[[Any], tuple[object, ...]] = eval(f"lambda v: {_flat(cls, codes)}")  # noqa: S307 - the source has only names of our own classes
    return made


def _flat(cls: type, codes: dict[type, int], value: str = "v") -> str:
    """The source of that function's result, with the fields that are tuples of records inlined."""
    values = [str(codes[cls])]
    for name in _names(cls):
        parts = get_args(_hints(cls)[name])
        if value == "v" and parts[1:] == (Ellipsis,) and parts[0] in codes:
            values.append(f"[{_flat(parts[0], codes, 'p')} for p in v.{name}]")
        else:
            values.append(f"{value}.{name}")
    return f"({', '.join(values)},)"


def unpack(data: bytes | memoryview) -> Any:
    """Decode plain values, with tuples for arrays. Raises `CodecError`."""
    try:
        return msgpack.unpackb(
            data, use_list=False, unicode_errors="surrogatepass", strict_map_key=False
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise CodecError(f"is not msgpack: {error}") from None


class Decoder:
    """Decodes records by the schema of the log that they are in.

    Raises `CodecError` if the log has a field that this version does not know, or lacks one that has
    no default.
    """

    def __init__(self, recorded: Schema) -> None:
        self.lacking: tuple[str, ...]
        """Fields of this version that the log lacks, as `Record.field`."""
        known = {cls.__name__: cls for cls in _records()}
        lacking: list[str] = []
        self._readers: dict[type, Reader] = {}
        self._by_code: dict[int, Reader] = {}
        self._class_of: dict[int, type] = {}
        self._recorded_names = {code: name for code, (name, _) in enumerate(recorded)}
        for code, (name, _) in enumerate(recorded):
            if name in known:
                self._class_of[code] = known[name]
        for code, cls in self._class_of.items():
            self._by_code[code] = self._record(cls, recorded[code][1], lacking)
        self.lacking = tuple(lacking)
        self._event = self._one_of(get_args(Event))
        self._command = self._one_of(get_args(Command))
        self._state = self._one_of((State,))

    def events(self, values: Any) -> list[Event]:
        """The events of a step."""
        return [self._event(value) for value in values]

    def commands(self, values: Any) -> list[Command]:
        """The commands of a step."""
        return [self._command(value) for value in values]

    def state(self, value: Any) -> State:
        """The snapshot that a segment begins with."""
        state: State = self._state(value)
        return state

    # Readers

    def _record(self, cls: type, recorded: tuple[str, ...], lacking: list[str]) -> Reader:
        mine = {field.name: field for field in fields(cls)}
        unknown = [name for name in recorded if name not in mine]
        if unknown:
            raise CodecError(
                f"it has {cls.__name__}.{unknown[0]}, which this version does not know"
            )
        for name, field in mine.items():
            if name not in recorded:
                if field.default is MISSING and field.default_factory is MISSING:
                    raise CodecError(f"it lacks {cls.__name__}.{name}, which has no default")
                lacking.append(f"{cls.__name__}.{name}")
        hints = _hints(cls)
        readers = [self._reader(hints[name]) for name in recorded]
        count = len(recorded) + 1
        in_order = recorded == tuple(mine)[: len(recorded)]

        def read(value: Any) -> Any:
            if len(value) != count:
                raise CodecError(f"a {cls.__name__} of {len(value) - 1} fields, not {count - 1}")
            try:
                given = [read(field) for read, field in zip(readers, value[1:], strict=True)]
            except CodecError as error:
                raise CodecError(f"{cls.__name__}: {error}") from None
            if in_order:
                return cls(*given)
            return cls(**dict(zip(recorded, given, strict=True)))

        return read

    def _one_of(self, classes: tuple[Any, ...]) -> Reader:
        """A reader of records of these classes, chosen by the record's code."""
        allowed = {
            code: self._by_code.get(code) for code, cls in self._class_of.items() if cls in classes
        }

        def read(value: Any) -> Any:
            code: Any = value[0] if type(value) is tuple and value else None
            if type(code) is not int or code not in allowed:
                raise self._misplaced(code)
            reader = allowed[code]
            if reader is None:
                # The reader of a record that was made after this one.
                reader = allowed[code] = self._by_code[code]
            return reader(value)

        return read

    def _misplaced(self, code: object) -> CodecError:
        name = self._recorded_names.get(code) if type(code) is int else None
        if name is None:
            return CodecError(f"got {code!r} where a record's code belongs")
        if type(code) is int and code in self._class_of:
            return CodecError(f"a {name} has no place there")
        return CodecError(f"it has a {name}, which this version does not know")

    def _reader(self, hint: Any) -> Reader:
        origin = get_origin(hint)
        if origin is tuple:
            return self._tuple(get_args(hint))
        if origin in (Union, types.UnionType):
            return self._union(get_args(hint))
        if is_dataclass(hint):
            return self._one_of((hint,))
        if hint is object:
            return _plain
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _enum(hint)
        if hint in _SCALARS:
            return _scalar(_kinds(hint))
        raise TypeError(f"no codec for {hint}")

    def _tuple(self, parts: tuple[Any, ...]) -> Reader:
        if len(parts) == 2 and parts[1] is Ellipsis:
            each = self._reader(parts[0])

            def read_all(value: Any) -> Any:
                if type(value) is not tuple:
                    raise CodecError(f"got {value!r} where an array belongs")
                return tuple([each(item) for item in value])

            return read_all
        readers = [self._reader(part) for part in parts]

        def read(value: Any) -> Any:
            if type(value) is not tuple or len(value) != len(readers):
                raise CodecError(f"got {value!r} where {len(readers)} values belong")
            return tuple([read(item) for read, item in zip(readers, value, strict=True)])

        return read

    def _union(self, options: tuple[Any, ...]) -> Reader:
        scalars = [option for option in options if option in _SCALARS]
        kinds: frozenset[type] = frozenset().union(*(_kinds(option) for option in scalars))
        others = [option for option in options if option not in _SCALARS]
        if not others:
            return _scalar(kinds)
        if all(is_dataclass(option) for option in others):
            other = self._one_of(tuple(others))
        elif len(others) == 1:
            other = self._reader(others[0])
        else:
            raise TypeError(f"no codec for a union of {options}")

        def read(value: Any) -> Any:
            return value if type(value) in kinds else other(value)

        return read


def _kinds(hint: Any) -> frozenset[type]:
    """The types of values that a scalar hint allows; for float also int."""
    return frozenset((int, float)) if hint is float else frozenset((hint,))


def _scalar(kinds: frozenset[type]) -> Reader:
    def read(value: Any) -> Any:
        if type(value) not in kinds:
            wanted = " or ".join(sorted(kind.__name__ for kind in kinds))
            raise CodecError(f"got {value!r} where {wanted} belongs")
        return value

    return read


def _enum(cls: type[Enum]) -> Reader:
    known = {member.value: member for member in cls}

    def read(value: Any) -> Any:
        try:
            return known[value]
        except (KeyError, TypeError):
            raise CodecError(f"{value!r} is no {cls.__name__} that this version knows") from None

    return read


def _plain(value: Any) -> Any:
    """Check that a value is a scalar or a tuple of scalars, and return it."""
    if type(value) is tuple:
        for item in value:
            _plain(item)
    elif type(value) not in _SCALARS:
        raise CodecError(f"got {value!r} where a plain value belongs")
    return value
