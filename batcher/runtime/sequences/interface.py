"""Which inputs and outputs of a loaded model are state or controls, and what clients see of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

import numpy as np

from batcher.config import SequenceConfig, StateConfig
from batcher.errors import InvalidRequest, ModelLoadError, shown
from batcher.executor import ExecutionError, ModelMetadata
from batcher.runtime.interface.padding_rules import fill_value
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec

MAX_STATE_BYTES: Final = 1024 * 1024
"""Bytes of the state of one sequence. It is copied on the event loop after each step, which takes 0.1 ms for this
much."""

_ID_DATATYPES: Final = ("INT32", "INT64", "UINT32", "UINT64", "BYTES")
_FLAG_DATATYPES: Final = frozenset(DTYPES) - {"BYTES", "BF16"}


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A state: the input it goes into, the output it comes out of, and its value at the first step."""

    input: TensorSpec
    output: str
    initial: Array
    """As `execute` gets it for one row: `[1, ...]`, or without the row axis where the model has none."""


@dataclass(frozen=True, slots=True)
class SequenceInterface:
    """A loaded model's state and controls. Made by `resolve_sequence`."""

    model: str
    config: SequenceConfig
    clients: ModelMetadata
    """The model as clients see it: without state and controls."""
    supplied: frozenset[str]
    """The inputs that are filled here."""
    states: tuple[StateTensor, ...]
    flags: Mapping[str, tuple[str, Tensor, Tensor]]
    """Kind of control -> the input, its tensor for no and the one for yes, each for one row."""
    id_input: TensorSpec | None
    nbytes: int
    """Bytes of the state of one sequence."""

    @property
    def shown_outputs(self) -> tuple[str, ...]:
        """The outputs of a request that names none."""
        return tuple(spec.name for spec in self.clients.outputs)

    def initial(self) -> dict[str, Array]:
        """State input -> its value at the first step."""
        return {each.input.name: each.initial for each in self.states}

    def inputs(
        self, state: Mapping[str, Array], sequence_id: int | str, *, start: bool, end: bool
    ) -> dict[str, Tensor]:
        """The inputs of a step that its client does not send."""
        tensors = {
            each.input.name: Tensor(each.input.datatype, state[each.input.name])
            for each in self.states
        }
        told = {"start": start, "end": end, "ready": True}
        for kind, (name, no, yes) in self.flags.items():
            tensors[name] = yes if told[kind] else no
        if self.id_input is not None:
            tensors[self.id_input.name] = self._id_tensor(self.id_input, sequence_id)
        return tensors

    def check_id(self, sequence_id: int | str) -> None:
        """Raise `InvalidRequest` if the input for the sequence's id cannot hold it."""
        spec = self.id_input
        if spec is None:
            return
        if spec.datatype == "BYTES":
            if not isinstance(sequence_id, str):
                raise InvalidRequest(
                    f"{self.model}: sequence_id {sequence_id} is a number; this model takes text"
                    f" (its input {spec.name!r} is BYTES)"
                )
            return
        limits = np.iinfo(DTYPES[spec.datatype])
        if not isinstance(sequence_id, int) or sequence_id > limits.max:
            raise InvalidRequest(
                f"{self.model}: sequence_id {shown(str(sequence_id))}; this model takes a whole number from 1"
                f" to {limits.max} (its input {spec.name!r} is {spec.datatype})"
            )

    def taken(self, outputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """State input -> its value after a step with these outputs, which are copied.

        Raises `ExecutionError` if an output does not have the shape of its input.
        """
        state: dict[str, Array] = {}
        for each in self.states:
            array = outputs[each.output].array
            if array.shape != each.initial.shape:
                raise ExecutionError(
                    f"output {each.output!r} has shape {list(array.shape)} for one row, and the state that"
                    f" it becomes has {list(each.initial.shape)}"
                )
            state[each.input.name] = array.copy()
        return state

    @staticmethod
    def _id_tensor(spec: TensorSpec, sequence_id: int | str) -> Tensor:
        value: Any = sequence_id.encode() if isinstance(sequence_id, str) else sequence_id
        return Tensor(spec.datatype, _one_row(spec, value))


def resolve_sequence(
    model: str, config: SequenceConfig | None, metadata: ModelMetadata
) -> SequenceInterface | None:
    """The interface of a model with the section `sequence`; None without one.

    Raises `ModelLoadError`, which names every setting that does not suit the model.
    """
    if config is None:
        return None
    problems: list[str] = []
    inputs = {spec.name: spec for spec in metadata.inputs}
    outputs = {spec.name: spec for spec in metadata.outputs}
    has_rows = any(spec.batched for spec in (*metadata.inputs, *metadata.outputs))
    states: list[StateTensor] = []
    for place, state in enumerate(config.state):
        where = f"sequence.state[{place}]"
        source = _input(inputs, state.input, f"{where}.input", has_rows, problems)
        result = outputs.get(state.output)
        if result is None:
            problems.append(
                f"{where}.output: got {state.output!r}; allowed: {', '.join(outputs) or 'none'}"
            )
        elif source is not None:
            problems += _differences(source, result, where)
        if source is not None and result is not None and min(source.inner, default=0) >= 0:
            try:
                states.append(StateTensor(source, state.output, _initial(source, state)))
            except (ValueError, OSError) as error:
                key = "initial" if state.initial_file is None else "initial_file"
                problems.append(f"{where}.{key}: allowed: {error}")
    flags = _flags(config, inputs, has_rows, problems)
    id_input = None
    if config.controls.id is not None:
        where = "sequence.controls.id"
        id_input = _input(inputs, config.controls.id, where, has_rows, problems)
        if id_input is not None and id_input.datatype not in _ID_DATATYPES:
            allowed = f"an input of type {', '.join(_ID_DATATYPES)}"
            problems.append(
                f"{where}: {id_input.name!r} is {id_input.datatype}; allowed: {allowed}"
            )
    nbytes = sum(state.initial.nbytes for state in states)
    if nbytes > MAX_STATE_BYTES:
        problems.append(
            f"sequence.state: got {nbytes} bytes for each sequence; allowed: up to {MAX_STATE_BYTES}; an executor"
            " can keep larger state itself (strategy: slot)"
        )
    if problems:
        raise ModelLoadError(f"model {model!r}: {'; '.join(problems)}")
    own = {state.input.name for state in states} | {name for name, _, _ in flags.values()}
    if id_input is not None:
        own.add(id_input.name)
    sent = tuple(spec for spec in metadata.inputs if spec.name not in own)
    kept = {state.output for state in states}
    returned = tuple(spec for spec in metadata.outputs if spec.name not in kept)
    return SequenceInterface(
        model,
        config,
        replace(metadata, inputs=sent, outputs=returned),
        frozenset(own),
        tuple(states),
        flags,
        id_input,
        nbytes,
    )


def _input(
    inputs: Mapping[str, TensorSpec], name: str, where: str, has_rows: bool, problems: list[str]
) -> TensorSpec | None:
    """The input of that name, if it can be filled here."""
    spec = inputs.get(name)
    if spec is None:
        problems.append(f"{where}: got {name!r}; allowed: {', '.join(inputs) or 'none'}")
        return None
    if has_rows and not spec.batched:
        problems.append(f"{where}: {name!r} has no row axis; allowed: an input with one")
    if min(spec.inner, default=0) < 0:
        problems.append(
            f"{where}: {name!r} has shape {list(spec.shape)}; allowed: an input whose axes after the rows"
            " are all fixed"
        )
    return spec


def _differences(source: TensorSpec, result: TensorSpec, where: str) -> list[str]:
    """Why an output cannot become the input's next value."""
    problems: list[str] = []
    if source.datatype != result.datatype or source.datatype == "BYTES":
        problems.append(
            f"{where}: input {source.name!r} is {source.datatype} and output {result.name!r} is"
            f" {result.datatype}; allowed: two of one datatype that is not BYTES"
        )
    same = len(source.inner) == len(result.inner) and all(
        want in {-1, got} for want, got in zip(result.inner, source.inner, strict=True)
    )
    if not same:
        problems.append(
            f"{where}: input {source.name!r} has shape {list(source.shape)} and output {result.name!r} has"
            f" {list(result.shape)}; allowed: equal ones"
        )
    return problems


def _initial(spec: TensorSpec, state: StateConfig) -> Array:
    """A state's value at the first step. Raises `ValueError` with what is allowed, and `OSError`."""
    if spec.datatype == "BYTES":
        return np.empty(0, object)
    dtype, count = DTYPES[spec.datatype], prod(spec.inner)
    if state.initial_file is not None:
        size = state.initial_file.stat().st_size
        if size != count * dtype.itemsize:
            raise ValueError(
                f"a file of {count * dtype.itemsize} bytes, {count} {spec.datatype} elements; it has {size}"
            )
        row = np.fromfile(state.initial_file, dtype.newbyteorder("<")).astype(dtype)
    else:
        listed = state.initial if isinstance(state.initial, tuple) else (state.initial,)
        if len(listed) not in {1, count}:
            raise ValueError(f"one value, or the {count} of a row of shape {list(spec.inner)}")
        row = np.resize(
            np.array([fill_value(each, spec.datatype) for each in listed], dtype), count
        )
    array: Array = np.ascontiguousarray(row.reshape(_row_shape(spec)))
    array.flags.writeable = False
    return array


def _flags(
    config: SequenceConfig, inputs: Mapping[str, TensorSpec], has_rows: bool, problems: list[str]
) -> dict[str, tuple[str, Tensor, Tensor]]:
    flags: dict[str, tuple[str, Tensor, Tensor]] = {}
    for kind in ("start", "end", "ready"):
        control = getattr(config.controls, kind)
        if control is None:
            continue
        where = f"sequence.controls.{kind}"
        spec = _input(inputs, control.input, f"{where}.input", has_rows, problems)
        if spec is None or min(spec.inner, default=0) < 0:
            continue
        if spec.datatype not in _FLAG_DATATYPES:
            problems.append(f"{where}: {spec.name!r} is {spec.datatype}; allowed: BOOL or numbers")
            continue
        no, yes = control.values or ((False, True) if spec.datatype == "BOOL" else (0, 1))
        try:
            tensors = [
                Tensor(spec.datatype, _one_row(spec, fill_value(each, spec.datatype)))
                for each in (no, yes)
            ]
        except ValueError as error:
            problems.append(f"{where}.values: got {[no, yes]}; allowed: {error}")
            continue
        flags[kind] = control.input, tensors[0], tensors[1]
    return flags


def _row_shape(spec: TensorSpec) -> tuple[int, ...]:
    return (1, *spec.inner) if spec.batched else spec.inner


def _one_row(spec: TensorSpec, value: Any) -> Array:
    array = np.empty(_row_shape(spec), DTYPES[spec.datatype])
    array.fill(value)
    return array
