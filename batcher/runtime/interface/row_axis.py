"""Checks, when a model loads, that axis 0 of its inputs and outputs is the batch axis.

Rows of different callers share a batch, and each reply is cut out by its rows. If axis 0 were
another axis, callers would get each other's data. So where the names of the axes show that axis 0
is not the batch axis, the model is refused, with the setting that helps. What names do not show is
caught later: every result must have as many rows as its batch, and the warm-up tries several sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from batcher.errors import ModelLoadError
from batcher.executor import Capabilities, LoadContext, ModelMetadata
from batcher.runtime.interface.declared import declared_problems
from batcher.runtime.interface.forwarded import wrong_names
from batcher.tensors import DTYPES, TensorSpec

NO_BATCH_AXIS = "batching.max_batch_size: 0 where the model has no batch axis"


def with_row_axes(
    metadata: ModelMetadata, context: LoadContext, capabilities: Capabilities
) -> ModelMetadata:
    """The executor's metadata, with `batched` as the configuration's `inputs` say.

    Raises `ModelLoadError`, which names every input whose axis 0 cannot be the batch axis, every
    contradiction within what the executor declares, and what is allowed.
    """
    problems = [
        *_spec_problems(metadata),
        *_unknown(metadata.inputs, context.batched),
        *wrong_names(metadata.metadata),
        *declared_problems(metadata, context, capabilities),
    ]
    if not context.max_batch_size:
        inputs, outputs = (
            tuple(replace(spec, batched=False) for spec in specs)
            for specs in (metadata.inputs, metadata.outputs)
        )
        metadata = replace(metadata, inputs=inputs, outputs=outputs)
    else:
        inputs = tuple(
            replace(spec, batched=spec.batched and context.batched.get(spec.name, True))
            for spec in metadata.inputs
        )
        problems += _input_problems(metadata.inputs, inputs, context.batched)
        for spec in metadata.outputs:
            if not spec.batched or spec.shape[:1] != (-1,):
                problems.append(
                    f"output {spec.name!r} of shape {list(spec.shape)} has no batch axis first; allowed:"
                    f" {NO_BATCH_AXIS}"
                )
        metadata = replace(metadata, inputs=inputs)
    if problems:
        raise ModelLoadError(f"model {context.model!r}: {'; '.join(problems)}")
    return metadata


def row_names(metadata: ModelMetadata) -> set[str]:
    """The model's names for the batch axis."""
    firsts = [spec.dims[0] for spec in metadata.inputs if spec.batched and spec.dims]
    return {name for name in firsts if name is not None}


def output_problems(metadata: ModelMetadata, declared: Collection[str], path: str) -> Iterator[str]:
    """Outputs whose axis 0 is not the batch axis, except those `declared` to be batched."""
    rows = row_names(metadata)
    for spec in metadata.outputs:
        first = spec.dims[0] if spec.dims else None
        if not spec.batched:
            continue
        if first is not None and first not in rows and spec.name not in declared:
            yield (
                f"{path}outputs: the first axis of output {spec.name!r} is {first!r} in the model,"
                f" and that of the inputs is {_listed(rows) or 'another'}, so it is not the batch axis;"
                f" allowed: {{output: {spec.name}, batched: true}} where it is nevertheless, or"
                f" {NO_BATCH_AXIS}"
            )
        if rows.intersection(spec.dims[1:]):
            yield (
                f"{path}outputs: output {spec.name!r} has the batch axis {_listed(rows)} twice,"
                " so that a row's answer depends on the other rows of its batch; allowed:"
                f" {NO_BATCH_AXIS}"
            )


def _spec_problems(metadata: ModelMetadata) -> Iterator[str]:
    """Names, datatypes and axes against which no request could be validated."""
    for what, specs in (("input", metadata.inputs), ("output", metadata.outputs)):
        names = [spec.name for spec in specs]
        for place, spec in enumerate(specs):
            if spec.name in names[:place]:
                yield f"two {what}s have the name {spec.name!r}"
            if spec.datatype not in DTYPES:
                known = ", ".join(DTYPES)
                yield f"{what} {spec.name!r} is {spec.datatype!r}; allowed: {known}"
            if spec.dims and len(spec.dims) != len(spec.shape):
                yield (
                    f"{what} {spec.name!r} has {len(spec.dims)} names for the"
                    f" {len(spec.shape)} axes of {list(spec.shape)}"
                )


def _unknown(specs: Sequence[TensorSpec], batched: Mapping[str, bool]) -> Iterator[str]:
    known = [spec.name for spec in specs]
    for name in batched:
        if name not in known:
            yield f"inputs: got {name!r}; allowed: {', '.join(known) or 'none, it has no inputs'}"


def _input_problems(
    specs: Sequence[TensorSpec], inputs: Sequence[TensorSpec], declared: Mapping[str, bool]
) -> Iterator[str]:
    """`specs` are the executor's specs, `inputs` the same with the configuration applied."""
    for spec in specs:
        if not spec.batched and declared.get(spec.name):
            yield f"inputs: input {spec.name!r} has no batch axis; allowed: batched: false"
    with_rows = [spec for spec in inputs if spec.batched]
    if inputs and not with_rows:
        yield f"inputs: none has a batch axis; allowed: an input that is batched, or {NO_BATCH_AXIS}"
    firsts = {
        spec.name: spec.dims[0]
        for spec in with_rows
        if spec.dims and spec.dims[0] is not None and spec.name not in declared
    }
    if len(set(firsts.values())) > 1:
        last = list(firsts)[-1]
        yield (
            "inputs: the first axes of the inputs have different names in the model"
            f" ({', '.join(f'{axis!r} in {name}' for name, axis in firsts.items())}), so they are"
            f" not all the batch axis; allowed: {{input: {last}, batched: false}} for an input without a"
            f" batch axis, {{input: {last}, batched: true}} for one that has it nevertheless, or"
            f" {NO_BATCH_AXIS}"
        )
    rows = {spec.dims[0] for spec in with_rows if spec.dims} - {None}
    for spec in inputs:
        if rows.intersection(spec.dims[1:] if spec.batched else spec.dims):
            again = "twice" if spec.batched else "and is declared to have no batch axis"
            yield (
                f"inputs: input {spec.name!r} has the batch axis {_listed(rows)} {again}, which"
                f" a batch of several requests cannot have; allowed: {NO_BATCH_AXIS}"
            )
        if spec.batched and spec.shape[:1] != (-1,):
            yield f"inputs: the shape of input {spec.name!r}, {list(spec.shape)}, has no batch axis first"


def _listed(names: Collection[str | None]) -> str:
    return " or ".join(sorted(map(repr, names)))
