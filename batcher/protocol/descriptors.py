"""The compiled proto files, as gRPC server reflection sends them."""

from __future__ import annotations

from batcher.protocol import _pool
from batcher.protocol._generated_descriptors import FILES


def file_containing(symbol: str) -> str:
    """The name of the file that defines a message, enum, field, service or method. Raises KeyError."""
    return _pool.file_containing(symbol)


def file_and_imports(name: str) -> list[bytes]:
    """The serialized descriptors of a file and of all that it imports. Raises KeyError."""
    order = [name]
    for each in order:
        order += [dependency for dependency in _pool.dependencies(each) if dependency not in order]
    return [FILES[each] for each in order]
