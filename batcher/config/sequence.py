"""The section `sequence` of a model: requests that are steps of sequences, and where their state is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, WithJsonSchema, model_validator

from batcher.config.padding import TensorName, TensorValues
from batcher.config.section import Count, CrossCheckError, FilePath, KeyPath, Section, refusal
from batcher.config.units import Duration, Size

DEFAULT_MAX_STATE: Final = 256 * 1024 * 1024
"""Bytes; the default of `max_state`."""


def _two_values(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("two values, for no and for yes, or null")
    if not all(isinstance(each, (bool, int, float)) for each in value):
        raise ValueError("two numbers, or false and true")
    return tuple(value)


NoAndYes = Annotated[
    Any,
    AfterValidator(_two_values),
    WithJsonSchema(
        {
            "type": ["array", "null"],
            "items": {"type": ["number", "boolean"]},
            "minItems": 2,
            "maxItems": 2,
        }
    ),
]


class StateConfig(Section):
    """A tensor that a sequence keeps from one step to the next."""

    input: TensorName
    """The model's input that it goes into. Clients do not send it."""
    output: TensorName
    """The model's output that it comes out of, of the same datatype and shape. It is not returned
    unless a request names it."""
    initial: TensorValues = 0
    """Its value at the first step: one value for all elements, or a list for the elements of a row,
    in their order."""
    initial_file: FilePath | None = None
    """A file with its value at the first step instead: the elements of one row, little-endian,
    without any header."""

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.initial_file is not None and "initial" in self.model_fields_set:
            CrossCheckError.raise_any(
                [(("initial",), "no effect with initial_file; allowed: one of the two")]
            )
        return self


class ControlConfig(Section):
    """An input that tells the model something of each step."""

    input: TensorName
    """The model's input. Clients do not send it."""
    values: NoAndYes = None
    """What its elements are for no and for yes; null means 0 and 1, or false and true."""


class ControlsConfig(Section):
    """Inputs that tell the model which step of which sequence a row is."""

    start: ControlConfig | None = None
    """Whether it is the first step."""
    end: ControlConfig | None = None
    """Whether it is the last step."""
    ready: ControlConfig | None = None
    """Whether the row is a step at all: always yes here."""
    id: TensorName | None = None
    """An input for the sequence's id: of an integer datatype where clients send numbers, BYTES where
    they send text."""

    def given(self) -> Iterator[tuple[str, TensorName]]:
        """The kinds that are configured, each with its input."""
        for kind in ("start", "end", "ready"):
            control = getattr(self, kind)
            if control is not None:
                yield kind, control.input
        if self.id is not None:
            yield "id", self.id


class SequenceConfig(Section):
    """Requests are steps of sequences, which have their order and their state."""

    strategy: Literal["state", "slot"] = "state"
    """Who keeps the state between two steps. `state`: batcher does, as `state` says. `slot`: the
    executor does; batcher tells it a slot for each row of a batch (`Batch.sequences`)."""
    state: tuple[StateConfig, ...] = ()
    """What a sequence keeps: outputs of one step that are inputs of the next."""
    controls: ControlsConfig = ControlsConfig()
    """Inputs that tell the model which step of which sequence a row is."""
    idle_timeout: Duration = 60_000_000_000
    """A sequence without a request for so long ends, and its state is dropped."""
    max_sequences: Count = 1024
    """The most sequences that are open at once; the first step of another one is refused. With the
    strategy `slot`, this many slots."""
    max_state: Size = DEFAULT_MAX_STATE
    """The most bytes of state of all open sequences; the first step of another one is refused."""
    max_waiting_steps: Count = 64
    """The most steps of one sequence that wait for the step before them; further ones are refused."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        problems: list[tuple[KeyPath, str]] = []
        if self.strategy == "state" and not self.state:
            text = "missing; needed: the tensors to keep, or strategy: slot for an executor that keeps them"
            problems.append((("state",), text))
        if self.strategy == "slot":
            no_effect = (
                "no effect under strategy slot, where the executor keeps the state; allowed: none"
            )
            problems += [((key,), no_effect) for key in ("state", "max_state") if self._set(key)]
        inputs = Counter(each.input for each in self.state)
        outputs = Counter(each.output for each in self.state)
        for kind, name in self.controls.given():
            inputs[name] += 1
            if inputs[name] > 1:
                problems.append((("controls", kind), refusal(name, "each input for one purpose")))
        for place, each in enumerate(self.state):
            for key, counts in (("input", inputs), ("output", outputs)):
                name = getattr(each, key)
                if counts[name] > 1:
                    allowed = f"each {key} once"
                    problems.append((("state", place, key), refusal(name, allowed)))
        CrossCheckError.raise_any(problems)
        return self

    def _set(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)


def sequence_problems(
    sequence: SequenceConfig | None, instances: int, padded: set[str]
) -> list[tuple[KeyPath, str]]:
    """Problems of the section beside the others of its model; `padded` are inputs with padded axes."""
    if sequence is None:
        return []
    problems: list[tuple[KeyPath, str]] = []
    if sequence.strategy == "slot" and instances != 1:
        allowed = "1 under sequence.strategy slot, where each sequence stays on its instance"
        problems.append((("instances",), refusal(instances, allowed)))
    held: dict[str, KeyPath] = {
        each.input: ("sequence", "state", place, "input")
        for place, each in enumerate(sequence.state)
    }
    held |= {name: ("sequence", "controls", kind) for kind, name in sequence.controls.given()}
    problems += [
        (path, refusal(name, "an input that is not padded"))
        for name, path in held.items()
        if name in padded
    ]
    return problems
