"""Parts of protobuf's wire format that are written by hand, because protobuf would copy tensors."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from batcher.protocol import inference


def encode_length(value: int) -> bytes:
    """The length as protobuf writes it: seven bits a byte, the low ones first."""
    if value < 0x80:
        return value.to_bytes(1, "little")
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def set_parameters(
    parameters: MutableMapping[str, inference.InferParameter],
    values: Mapping[str, bool | int | float | str],
) -> None:
    """Set the parameters of a message to these values, each in the field of its type."""
    for name, value in values.items():
        parameter = parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        elif value < 2**63:
            parameter.int64_param = value
        else:
            parameter.uint64_param = value
