"""From `sequence_batching` to the section `sequence` of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from batcher.config import format_duration
from batcher.triton_models.model import TritonControl, TritonSequences

INITIAL_STATE: Final = "initial_state"
"""The folder, in that of a model, with files of initial values."""


def sequence_section(
    sequences: TritonSequences, folder: Path, *, idle_given: bool
) -> dict[str, Any]:
    """The section as a file would have it; `folder` is the model's.

    `idle_given`: whether the configuration says how long a sequence may be idle.
    """
    section: dict[str, Any] = {"strategy": "state" if sequences.states else "slot"}
    if sequences.states:
        section["state"] = [
            {"input": each.input, "output": each.output}
            | (
                {"initial_file": str(folder / INITIAL_STATE / each.initial_file)}
                if each.initial_file
                else {}
            )
            for each in sequences.states
        ]
    if sequences.controls:
        section["controls"] = {each.kind: _control(each) for each in sequences.controls}
    if idle_given:
        section["idle_timeout"] = format_duration(sequences.max_idle_ns)
    # `max_candidate_sequences` bounds how many are batched at once: further ones wait, and are not refused.
    return section


def _control(control: TritonControl) -> Any:
    if control.kind == "id":
        return control.input
    if control.datatype == "BOOL":
        values: list[Any] = [bool(control.no), bool(control.yes)]
    elif control.datatype == "INT32":
        values = [int(control.no), int(control.yes)]
    else:
        values = [control.no, control.yes]
    return {"input": control.input, "values": values}
