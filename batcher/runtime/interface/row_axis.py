"""Which axes are the rows: what the model says of its axes, held against batching by rows.

Rows of strangers share a batch, and an answer is cut out of it by its rows. So an array that has
another axis first must not be taken for rows: what the names of the axes give away is refused when
the model loads, with what helps. What they do not is left to the check of every answer, which must
have as many rows as its batch, and to the warm-up, which makes that check for several sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext, ModelMetadata
from batcher.tensors import DTYPES, TensorSpec

NO_BATCH_AXIS = "batching.max_batch_size: 0 where the model has no batch axis"


def with_row_axes(metadata: ModelMetadata, context: LoadContext) -> ModelMetadata:
    """What the executor says of its model, with what the configuration says of its inputs.

    Raises `ModelLoadError` naming every input whose first axis cannot be the rows, and what an
    executor must not say.
    """
    problems = [*_spec_problems(metadata), *_unknown(metadata.inputs, context.batched)]
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
                    f"output {spec.name!r} of shape {list(spec.shape)} has no rows first; allowed:"
                    f" {NO_BATCH_AXIS}"
                )
        metadata = replace(metadata, inputs=inputs)
    if problems:
        raise ModelLoadError(f"model {context.model!r}: {'; '.join(problems)}")
    return metadata


def row_names(metadata: ModelMetadata) -> set[str]:
    """The names of the row axis in the model, if it has any."""
    firsts = [spec.dims[0] for spec in metadata.inputs if spec.batched and spec.dims]
    return {name for name in firsts if name is not None}


def output_problems(metadata: ModelMetadata, declared: Collection[str], path: str) -> Iterator[str]:
    """Outputs whose first axis is not the rows, unless they are `declared` to have them."""
    rows = row_names(metadata)
    for spec in metadata.outputs:
        first = spec.dims[0] if spec.dims else None
        if not spec.batched:
            continue
        if first is not None and first not in rows and spec.name not in declared:
            yield (
                f"{path}outputs: the first axis of output {spec.name!r} is {first!r} in the model,"
                f" and that of the inputs is {_listed(rows) or 'another'}, so it is not the rows;"
                f" allowed: {{output: {spec.name}, batched: true}} where it is nevertheless, or"
                f" {NO_BATCH_AXIS}"
            )
        if rows.intersection(spec.dims[1:]):
            yield (
                f"{path}outputs: output {spec.name!r} has the rows' axis {_listed(rows)} once more,"
                " so that a row's answer depends on the other rows of its batch; allowed:"
                f" {NO_BATCH_AXIS}"
            )


def _spec_problems(metadata: ModelMetadata) -> Iterator[str]:
    """Names, datatypes and axes that a request could not be held against."""
    for what, specs in (("input", metadata.inputs), ("output", metadata.outputs)):
        names = [spec.name for spec in specs]
        for place, spec in enumerate(specs):
            if spec.name in names[:place]:
                yield f"two {what}s are called {spec.name!r}"
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
    told: Sequence[TensorSpec], inputs: Sequence[TensorSpec], declared: Mapping[str, bool]
) -> Iterator[str]:
    """`told` is what the executor says, `inputs` what is made of it."""
    for spec in told:
        if not spec.batched and declared.get(spec.name):
            yield f"inputs: input {spec.name!r} has no row axis; allowed: batched: false"
    with_rows = [spec for spec in inputs if spec.batched]
    if inputs and not with_rows:
        yield f"inputs: none has rows; allowed: an input that is batched, or {NO_BATCH_AXIS}"
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
            f" not all the rows; allowed: {{input: {last}, batched: false}} for an input that all"
            f" rows share, {{input: {last}, batched: true}} for one that has rows nevertheless, or"
            f" {NO_BATCH_AXIS}"
        )
    rows = {spec.dims[0] for spec in with_rows if spec.dims} - {None}
    for spec in inputs:
        if rows.intersection(spec.dims[1:] if spec.batched else spec.dims):
            again = "once more" if spec.batched else "and is declared to have no rows"
            yield (
                f"inputs: input {spec.name!r} has the rows' axis {_listed(rows)} {again}, which"
                f" a batch of several requests cannot have; allowed: {NO_BATCH_AXIS}"
            )
        if spec.batched and spec.shape[:1] != (-1,):
            yield f"inputs: the shape of input {spec.name!r}, {list(spec.shape)}, has no rows first"


def _listed(names: Collection[str | None]) -> str:
    return " or ".join(sorted(map(repr, names)))
