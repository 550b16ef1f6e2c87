"""The sections that say how variable axes are padded, and which outputs follow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from batcher.config.section import AT_LEAST_ONE, Count, KeyPath, Section, refusal

MOST_BUCKETS: Final = 32
"""Buckets of one axis: each has a queue and a warm-up of its own."""

TensorName = Annotated[str, Field(min_length=1, max_length=256)]
"""The name of an input or output, as the model has it."""

InnerAxis = Annotated[int, Field(strict=True, ge=1, le=64)]
"""An axis beside the rows."""


def _buckets(lengths: tuple[int, ...]) -> tuple[int, ...]:
    if list(lengths) != sorted(set(lengths)) or len(lengths) > MOST_BUCKETS:
        raise ValueError(f"at most {MOST_BUCKETS} ascending lengths, each once")
    return lengths


def _pad_value(value: Any) -> Any:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError("a number, true, false, a text, or null")
    return value


Buckets = Annotated[
    tuple[Count, ...],
    *AT_LEAST_ONE,
    AfterValidator(_buckets),
    Field(json_schema_extra={"maxItems": MOST_BUCKETS}),
]
PadValue = Annotated[
    Any,
    AfterValidator(_pad_value),
    WithJsonSchema({"type": ["number", "boolean", "string", "null"]}),
]


def _values(value: Any) -> Any:
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(each, (bool, int, float, str)) for each in listed):
        raise ValueError("a number, true, false, a text, or a list of these")
    return tuple(value) if isinstance(value, list) else value


TensorValues = Annotated[
    Any,
    BeforeValidator(_values),
    WithJsonSchema(
        {
            "type": ["number", "boolean", "string", "array"],
            "items": {"type": ["number", "boolean", "string"]},
            "minItems": 1,
        }
    ),
]
"""What fills an input: one value, or the values of a row."""


class PaddingConfig(Section):
    """One variable axis of one input, and the lengths that it is padded to."""

    input: TensorName
    """The input, as the model names it."""
    axis: InnerAxis
    """Which of its axes; 0 is the rows, which are never padded."""
    value: PadValue = None
    """What fills it up, of the input's datatype; null means 0, false or empty text. A mask takes
    0."""
    buckets: Buckets
    """Lengths, ascending: a request is padded to the least one that holds it, and refused if it is
    longer than the last."""


class LikeConfig(Section):
    """An axis of an input."""

    input: TensorName
    """The input, as the model names it."""
    axis: InnerAxis
    """Which of its axes."""


class OutputConfig(Section):
    """A variable axis of an output, and which input it follows."""

    output: TensorName
    """The output, as the model names it."""
    axis: InnerAxis
    """Which of its axes; 0 is the rows."""
    like: LikeConfig | None
    """The input axis that it is as long as: answers are cut back to the request's own length there.
    null means that its length is its own, and stays as the model gives it."""


def padding_problems(
    padding: Sequence[PaddingConfig], outputs: Sequence[OutputConfig]
) -> list[tuple[KeyPath, str]]:
    """What is said twice, and differently: axes, and the values of one input."""
    problems: list[tuple[KeyPath, str]] = []
    axes: set[tuple[str, int]] = set()
    values: dict[str, object] = {}
    for place, each in enumerate(padding):
        if (each.input, each.axis) in axes:
            allowed = f"each axis of {each.input!r} once"
            problems.append((("padding", place, "axis"), refusal(each.axis, allowed)))
        axes.add((each.input, each.axis))
        first = values.setdefault(each.input, each.value)
        if first != each.value:
            allowed = f"one value for all axes of {each.input!r}, which is {first!r} above"
            problems.append((("padding", place, "value"), refusal(each.value, allowed)))
    told: set[tuple[str, int]] = set()
    for place, output in enumerate(outputs):
        if (output.output, output.axis) in told:
            allowed = f"each axis of {output.output!r} once"
            problems.append((("outputs", place, "axis"), refusal(output.axis, allowed)))
        told.add((output.output, output.axis))
    if outputs and not padding:
        problems.append((("outputs",), "nothing is padded; allowed: outputs beside padding"))
    return problems
