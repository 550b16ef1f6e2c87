"""The dataclasses of the contract in messages, by their fields: a new field travels as soon as it is declared.

What a child sends is checked against the types of the fields.
"""

from __future__ import annotations

import collections.abc
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import msgpack

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext

T = TypeVar("T")


def packed_context(context: LoadContext) -> bytes:
    """The context of `load` as bytes. Raises `ModelLoadError` for an option that cannot be sent."""
    said = {
        each.name: getattr(context, each.name)
        for each in fields(context)
        if each.name not in {"options", "base_dir"}
    }
    try:
        options = msgpack.packb(dict(context.options))
        packed: bytes = msgpack.packb([plain(said), options, os.fsencode(context.base_dir)])
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelLoadError(
            f"model {context.model!r}: options: got a value that cannot be sent to the child process of"
            f" isolation: process ({error}); allowed: texts, numbers, booleans, null, lists and maps"
        ) from None
    return packed


def unpacked_context(packed: bytes) -> LoadContext:
    """The context that `packed_context` made bytes of."""
    said, options, base_dir = msgpack.unpackb(packed, use_list=False, strict_map_key=False)
    return LoadContext(
        **said,
        options=msgpack.unpackb(options, strict_map_key=False),
        base_dir=Path(os.fsdecode(base_dir)),
    )


def plain(value: object) -> object:
    """A value of dataclasses, mappings and sequences as maps and lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [plain(each) for each in value]
    return value


def checked(value: object, kind: type[T]) -> T:
    """The dataclass of this kind that `plain` made a value of. Raises `ValueError` for another value."""
    made: T = _checked(value, kind, kind.__name__)
    return made


def _checked(value: object, kind: Any, where: str) -> Any:
    if is_dataclass(kind):
        return _dataclass(value, kind, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(kind), where)
    if origin is tuple:
        if type(value) is not list:
            raise ValueError(f"{where} is no list")
        (each, _) = get_args(kind)
        return tuple([_checked(item, each, where) for item in value])
    if origin is collections.abc.Mapping:
        if type(value) is not dict:
            raise ValueError(f"{where} is no map")
        key, item = get_args(kind)
        return {_checked(k, key, where): _checked(v, item, where) for k, v in value.items()}
    if kind is type(None):
        kind = types.NoneType
    if type(value) is not kind:
        raise ValueError(f"{where} is of type {type(value).__name__}")
    return value


def _one_of(value: object, kinds: tuple[Any, ...], where: str) -> Any:
    for kind in kinds:
        try:
            return _checked(value, kind, where)
        except ValueError:
            continue
    raise ValueError(f"{where} is of type {type(value).__name__}")


def _dataclass(value: object, kind: Any, where: str) -> Any:
    if type(value) is not dict:
        raise ValueError(f"{where} is no map")
    hints = _hints(kind)
    if value.keys() - hints.keys():
        raise ValueError(f"{where} has other fields")
    try:
        return kind(
            **{name: _checked(each, hints[name], f"{where}.{name}") for name, each in value.items()}
        )
    except TypeError:
        raise ValueError(f"{where} lacks a field") from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
