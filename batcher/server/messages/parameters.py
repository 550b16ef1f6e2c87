"""Request parameters: reserved ones with their types and ranges; all others go to the executor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batcher import triton
from batcher.clock import MICROSECOND, SECOND
from batcher.errors import InvalidRequest, NotSupported, shown
from batcher.executor import ParameterValue
from batcher.protocol import inference
from batcher.runtime.request import SequenceParameters

MAX_WAIT_NS = 365 * 24 * 3600 * SECOND
"""A year: the longest timeout or deadline, so that times in nanoseconds fit 64 bits."""

MAX_PRIORITY = 2**31 - 1
"""Higher numbers count as this, which is above every priority level."""

MAX_TENANT = 256
"""The most characters of a tenant's name."""

_INT64 = "int64_param"
_EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
"""Asks for an empty last answer from decoupled models. There are none here, so it has no effect."""

MAX_SEQUENCE_ID_BYTES = 128
"""The most bytes of a sequence id that is a text, in UTF-8; the same as Triton's limit."""

_RESERVED = {
    "sequence_id": ("int64_param", "uint64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": (_INT64,),
    _EMPTY_FINAL_RESPONSE: ("bool_param",),
}
"""Name -> the fields of `InferParameter` that may hold its value."""

_FLAGS = frozenset(("sequence_start", "sequence_end"))
_SHARED_MEMORY = "shared_memory_"
_RESERVED_PREFIX = "triton_"


@dataclass(slots=True)
class RequestParameters:
    """The parameters of a request. `others` go to the executor."""

    priority: int = 0
    timeout_ns: int | None = None
    sequence_id: int | str | None = None
    flags: dict[str, bool] = field(default_factory=dict)
    """`sequence_start` and `sequence_end`, where they are given and true."""
    others: dict[str, ParameterValue] = field(default_factory=dict)

    @property
    def sequence(self) -> SequenceParameters | None:
        """What the parameters say of a sequence; None if that is nothing."""
        if self.sequence_id is None and not self.flags:
            return None
        start, end = "sequence_start" in self.flags, "sequence_end" in self.flags
        return SequenceParameters(self.sequence_id, start, end)


def read_parameters(
    parameters: Mapping[str, inference.InferParameter], model: str
) -> RequestParameters:
    """Take the reserved parameters out and check them.

    Raises InvalidRequest for a wrong type, a value out of range, a parameter without a value or an
    unknown name that begins with `triton_`.
    """
    found = RequestParameters()
    for name, parameter in parameters.items():
        where = f"model {shown(model)}: parameter {shown(name)}"
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequest(f"{where} has no value; send one, or leave the parameter out")
        value: ParameterValue = getattr(parameter, choice)
        allowed = _RESERVED.get(name)
        if allowed is None:
            if name.startswith(_RESERVED_PREFIX):
                raise InvalidRequest(
                    f"{where} is unknown, and names that begin with {_RESERVED_PREFIX!r} are reserved; use"
                    " another name",
                    triton=triton.reserved_parameter([_EMPTY_FINAL_RESPONSE]),
                )
            found.others[name] = value
            continue
        if choice not in allowed:
            raise InvalidRequest(f"{where}: expected {' or '.join(allowed)}, got {choice}")
        _take(found, name, value, where)
    return found


def _take(found: RequestParameters, name: str, value: ParameterValue, where: str) -> None:
    """Keep one reserved parameter, whose type is right."""
    if name in _FLAGS:
        if value:
            found.flags[name] = True
    elif name == "sequence_id":
        found.sequence_id = _sequence_id(value, where)
    elif name in {"priority", "timeout"}:
        number = int(value)
        if number < 0:
            raise InvalidRequest(f"{where}: expected 0 or more, got {number}")
        if name == "priority":
            found.priority = min(number, MAX_PRIORITY)
        elif number:
            found.timeout_ns = min(number * MICROSECOND, MAX_WAIT_NS)


def _sequence_id(value: ParameterValue, where: str) -> int | str | None:
    """The id of a sequence; None for the zero of either type, which means that there is none."""
    if not value:
        return None
    if isinstance(value, str):
        size = len(value.encode())
        if size > MAX_SEQUENCE_ID_BYTES:
            raise InvalidRequest(
                f"{where}: expected at most {MAX_SEQUENCE_ID_BYTES} bytes of text, got {size}"
            )
        return value
    # Clients send unsigned numbers of 64 bits in a signed field.
    return int(value) % 2**64


def classification(parameters: Mapping[str, inference.InferParameter], where: str) -> int | None:
    """The number of classes a requested output asks for, or None.

    Raises InvalidRequest unless it is an integer above 0, and NotSupported for shared memory.
    """
    refuse_shared_memory(parameters, where)
    if "classification" not in parameters:
        return None
    parameter = parameters["classification"]
    choice = parameter.WhichOneof("parameter_choice")
    if choice != _INT64:
        raise InvalidRequest(
            f"{where}: parameter 'classification': expected {_INT64}, got {choice or 'no value'}"
        )
    if parameter.int64_param <= 0:
        raise InvalidRequest(
            f"{where}: parameter 'classification': expected more than 0, "
            f"got {parameter.int64_param}"
        )
    return parameter.int64_param


def refuse_shared_memory(parameters: Mapping[str, inference.InferParameter], where: str) -> None:
    """Raise NotSupported if the parameters say that the tensor lies in shared memory."""
    for name in parameters:
        if name.startswith(_SHARED_MEMORY):
            raise NotSupported(
                f"{where}: parameter {shown(name)}: this server does not offer shared memory; "
                "send the tensor in the message"
            )
