"""What the configuration says of a model's variable axes: buckets, fill values, outputs to trim."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

from batcher.config import ModelConfig
from batcher.core.record import record
from batcher.tensors import DTYPES

PadValue: TypeAlias = bool | int | float | str | None


Axis: TypeAlias = tuple[str, int]
"""An input or output, and one of its axes; 0 is the batch axis."""


@record
class AxisRule:
    """A padded input axis: its pad value (None: zero, false or empty text) and its buckets."""

    input: str
    axis: int
    value: PadValue
    buckets: tuple[int, ...]


@record
class OutputRule:
    """The input axis whose length an output's axis has; `like` is None if it has its own length.

    `batched` says that its axis 0 is the batch axis; `axis` is None if the rule says only that.
    """

    output: str
    axis: int | None
    like: Axis | None
    batched: bool = False


@record
class PaddingRules:
    """The configuration of one model; `path` is where it stands in the file, such as `models[0].`."""

    axes: tuple[AxisRule, ...]
    outputs: tuple[OutputRule, ...]
    path: str

    @property
    def buckets(self) -> dict[str, dict[int, tuple[int, ...]]]:
        """Input -> axis -> its buckets."""
        found: dict[str, dict[int, tuple[int, ...]]] = {}
        for rule in self.axes:
            found.setdefault(rule.input, {})[rule.axis] = rule.buckets
        return found


NOTHING_PADDED: Final = PaddingRules((), (), "")


def read_padding_rules(config: ModelConfig, path: str) -> PaddingRules:
    """The padding rules of a model's configuration, which stands at `path` in the file."""
    return PaddingRules(
        tuple(AxisRule(p.input, p.axis, p.value, p.buckets) for p in config.padding),
        tuple(
            OutputRule(
                o.output,
                o.axis,
                None if o.like is None else (o.like.input, o.like.axis),
                batched=bool(o.batched),
            )
            for o in config.outputs
        ),
        path,
    )


def fill_value(value: PadValue, datatype: str) -> Any:
    """The value as an element of that datatype. Raises `ValueError` with what is allowed."""
    if datatype == "BYTES":
        if value is None or isinstance(value, str):
            return (value or "").encode()
        raise ValueError("text, for BYTES")
    dtype = DTYPES[datatype]
    number = 0 if value is None else value
    if datatype == "BOOL":
        if value is None or isinstance(value, bool):
            return bool(value)
        raise ValueError("true or false, for BOOL")
    if isinstance(number, (str, bool)):
        raise ValueError(f"a number, for {datatype}")  # noqa: TRY004 - the caller names the path
    if datatype == "BF16":
        return np.uint16(np.float32(number).view(np.uint32) >> np.uint32(16))
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            element = dtype.type(number)
        if np.isinf(element) and not np.isinf(number):
            raise ValueError(f"a number that {datatype} holds")
        return element
    limits = np.iinfo(dtype)
    if not isinstance(number, int) or not limits.min <= number <= limits.max:
        raise ValueError(f"a whole number from {limits.min} to {limits.max}, for {datatype}")
    return dtype.type(number)
