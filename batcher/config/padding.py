"""The sections `padding`, `inputs` and `outputs` of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    WithJsonSchema,
    model_validator,
)

from batcher.config.section import (
    AT_LEAST_ONE,
    Count,
    CrossCheckError,
    FilePath,
    KeyPath,
    Section,
    refusal,
)

NO_BATCH_AXIS: Final = "the model has no batch axis (batching.max_batch_size is 0)"

MOST_BUCKETS: Final = 32
"""Buckets of one axis: each has a queue and a warm-up of its own."""

TensorName = Annotated[str, Field(min_length=1, max_length=256)]
"""The name of an input or output, as the model has it."""

InnerAxis = Annotated[int, Field(strict=True, ge=1, le=64)]
"""An axis that is not the rows."""


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
    """The name of the input."""
    axis: InnerAxis
    """The axis of that input; 0 is the rows, which are never padded."""
    value: PadValue = None
    """The padding value, of the input's datatype; null means 0, false or empty text. An attention
    mask takes 0."""
    buckets: Buckets
    """Lengths, ascending. A request is padded to the smallest one that is long enough, and refused
    if it is longer than the last."""


class LikeConfig(Section):
    """An axis of an input."""

    input: TensorName
    """The name of the input."""
    axis: InnerAxis
    """The axis of that input."""


class InputConfig(Section):
    """Whether the first axis of an input is the rows, where the model itself does not say so."""

    input: TensorName
    """The name of the input."""
    batched: StrictBool
    """true: the first axis is the rows, whatever its name in the model. false: the input has no row
    axis; it reaches the executor unchanged, and only requests with equal values of it share a
    batch."""


class OutputConfig(Section):
    """What the model itself does not say of an output: which input an axis follows, or its rows."""

    output: TensorName
    """The name of the output."""
    axis: InnerAxis | None = None
    """The output axis that `like` is about; 0 is the rows."""
    like: LikeConfig | None = None
    """The input axis that has the same length. The padding is cut off there, so that each answer
    has the length of its request. null: the length is independent of the inputs, and is left as it
    is."""
    batched: Literal[True] | None = None
    """true: the first axis is the rows, whatever its name in the model."""
    labels: FilePath | None = None
    """A text file with one class name a line: classifications are then answered as
    `value:index:label`. A change loads the model again."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        problems: list[tuple[KeyPath, str]] = []
        if self.axis is None and (self.like is not None or not (self.batched or self.labels)):
            problems.append((("axis",), "missing; needed: which axis follows an input"))
        if self.axis is not None and "like" not in self.model_fields_set:
            problems.append((("like",), "missing; needed: the input axis that it is as long as"))
        CrossCheckError.raise_any(problems)
        return self


def row_problems(
    inputs: Sequence[InputConfig],
    padding: Sequence[PaddingConfig],
    outputs: Sequence[OutputConfig],
    max_batch_size: int,
) -> list[tuple[KeyPath, str]]:
    """Problems of inputs given twice, and of sections about rows in a model without a batch axis."""
    if not max_batch_size:
        of_rows = [each for each in outputs if each.batched or each.axis is not None]
        told = {"inputs": inputs, "padding": padding, "outputs": of_rows}
        return [
            ((key,), f"{NO_BATCH_AXIS}; allowed: none")
            for key, sections in told.items()
            if sections
        ]
    names = [each.input for each in inputs]
    return [
        (("inputs", place, "input"), refusal(name, "each input once"))
        for place, name in enumerate(names)
        if name in names[:place]
    ]


def padding_problems(
    padding: Sequence[PaddingConfig], outputs: Sequence[OutputConfig]
) -> list[tuple[KeyPath, str]]:
    """Problems of axes that are given twice, and of inputs with several values."""
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
        if output.axis is None:
            continue
        if (output.output, output.axis) in told:
            allowed = f"each axis of {output.output!r} once"
            problems.append((("outputs", place, "axis"), refusal(output.axis, allowed)))
        told.add((output.output, output.axis))
    if told and not padding:
        problems.append(
            (
                ("outputs",),
                "no effect without padding; allowed: axis and like together with padding",
            )
        )
    return problems
