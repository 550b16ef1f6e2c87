"""Triton's error messages, which programs written for Triton compare with or search for.

Callers get them with `server.status_codes: triton`. Where Triton's message begins with the id of the
request, the text begins with `REQUEST_ID`, and the server fills the id in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

UNKNOWN_ID: Final = "<id_unknown>"

REQUEST_ID: Final = f"[request id: {UNKNOWN_ID}] "

_BATCH_NOTE: Final = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be"
    " prepended to each input shape. If you want to specify the full shape including the batch dim"
    " in your input dims config, try setting max_batch_size to zero. See the model configuration"
    " docs for more info on max_batch_size."
)


def unknown_model(model: str, version: str = "") -> str:
    """For an unknown model, or an unknown version of it."""
    which = f" version {version}" if version else ""
    return f"Request for unknown model: '{model}'{which} is not found"


def model_unavailable(model: str, version: str) -> str:
    """For a version that is loading, failed to load or was unloaded."""
    return f"Request for unknown model: '{model}' version {version} is not at ready state"


def no_versions(model: str) -> str:
    """The same for a request without a version."""
    return f"Request for unknown model: '{model}' has no available versions"


def unknown_to_repository(model: str) -> str:
    """For a load of a model that is nowhere to be found."""
    return f"failed to load '{model}', failed to poll from model repository"


def unexpected_input(model: str, name: str) -> str:
    """For an input that the model does not have."""
    return f"unexpected inference input '{name}' for model '{model}'"


def unexpected_output(model: str, name: str) -> str:
    """For a requested output that the model does not have."""
    return f"unexpected inference output '{name}' for model '{model}'"


def wrong_inputs(model: str, got: Sequence[str], required: Sequence[str], all_: int) -> str:
    """For a wrong number of inputs: the model has `all_`, of which it requires `required`."""
    missing = [name for name in required if name not in got]
    expected = (
        f"{all_} inputs"
        if len(required) == all_
        else (f"number of inputs between {len(required)} and {all_}")
    )
    return (
        f"{REQUEST_ID}expected {expected} but got {len(got)} inputs for model '{model}'."
        f" Got input(s) {_listed(got)}, but missing required input(s) {_listed(missing)}."
        " Please provide all required input(s)."
    )


def wrong_datatype(model: str, name: str, expected: str, got: str) -> str:
    """For an input with a wrong datatype."""
    return (
        f"{REQUEST_ID}inference input '{name}' data-type is '{got}', but model '{model}' expects"
        f" '{expected}'"
    )


def wrong_shape(
    model: str, name: str, expected: Sequence[int], got: Sequence[int], *, batched: bool
) -> str:
    """For an input with a wrong shape."""
    return (
        f"{REQUEST_ID}unexpected shape for input '{name}' for model '{model}'. Expected"
        f" {_dims(expected)}, got {_dims(got)}. {_BATCH_NOTE if batched else ''}"
    )


def rows_disagree(model: str, name: str) -> str:
    """For inputs with different numbers of rows."""
    return f"{REQUEST_ID}input '{name}' batch size does not match other inputs for '{model}'"


def too_many_rows(model: str, most: int) -> str:
    """For a request with more rows than `most`."""
    return f"{REQUEST_ID}inference request batch-size must be <= {most} for '{model}'"


def wrong_size(model: str, name: str, expected: int, got: int) -> str:
    """For raw contents of a wrong size."""
    return (
        f"{REQUEST_ID}input byte size mismatch for input '{name}' for model '{model}'. Expected"
        f" {expected}, got {got}"
    )


def contents_twice(model: str, name: str) -> str:
    """For an input with typed and raw contents."""
    return (
        "contents field must not be specified when using raw_input_contents for"
        f" '{name}' for model '{model}'"
    )


def no_contents(model: str, name: str) -> str:
    """For an input without contents."""
    return f"unable to find data for input tensor '{name}' for model '{model}' in request."


def reserved_parameter(allowed: Sequence[str]) -> str:
    """For a parameter with a reserved name."""
    return (
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following"
        f" keys starting with 'triton_' are allowed: {' '.join(allowed)}"
    )


def no_sequence_id(model: str) -> str:
    """For a request without a sequence id to a model with sequences."""
    return (
        f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
    )


def sequence_not_started(model: str, sequence_id: int | str) -> str:
    """For a step of a sequence that is not open."""
    return (
        f"inference request for sequence {sequence_id} to model '{model}' must specify the START flag"
        " on the first request of the sequence"
    )


def sequence_rows(model: str) -> str:
    """For a step of a sequence with several rows."""
    return (
        f"inference request to model '{model}' must specify batch-size 1 due to requirements of sequence"
        " batcher"
    )


def not_classifiable(datatype: str) -> str:
    """For classification of an output whose datatype has no order."""
    return f"class result not available for output due to unsupported type '{datatype}'"


TOO_WIDE_TO_CLASSIFY: Final = "classification output tensor too large"


def _listed(names: Sequence[str]) -> str:
    quoted = ",".join(f"'{name}'" for name in names)
    return f"[{quoted}]"


def _dims(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
