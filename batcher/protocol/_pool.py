"""The package's own descriptor pool, and the message classes in it."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.internal import enum_type_wrapper
from google.protobuf.message import Message

from batcher.protocol._generated_descriptors import FILES


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for serialized in FILES.values():
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialized))
    return pool


_POOL = _load()


def message_class(descriptor: Descriptor) -> type[Message]:
    """The class of a message: the same one each time."""
    return message_factory.GetMessageClass(descriptor)


def file_containing(symbol: str) -> str:
    """The name of the file that defines the symbol. Raises KeyError."""
    try:
        return _POOL.FindFileContainingSymbol(symbol).name
    except KeyError:
        # Some versions of protobuf do not find methods.
        service, _, method = symbol.rpartition(".")
        descriptor = service_descriptor(service)
        if method not in descriptor.methods_by_name:
            raise
        return descriptor.file.name


def dependencies(file_name: str) -> list[str]:
    """The names of the files that a file imports; KeyError for an unknown file."""
    return [imported.name for imported in _POOL.FindFileByName(file_name).dependencies]


def service_descriptor(full_name: str) -> ServiceDescriptor:
    """The service of that full name. Raises KeyError."""
    return _POOL.FindServiceByName(full_name)


def symbols(file_name: str) -> dict[str, Any]:
    """The names in the module generated from that file: its messages, its enums and their values."""
    descriptor = _POOL.FindFileByName(file_name)
    names: dict[str, Any] = {"DESCRIPTOR": descriptor}
    for name, message in descriptor.message_types_by_name.items():
        names[name] = message_class(message)
    for name, enum in descriptor.enum_types_by_name.items():
        names[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        names |= {value.name: value.number for value in enum.values}
    return names
