"""Which of a model's arrays are shared out by rows, and which are handed on whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from batcher.core.record import record
from batcher.executor import ModelMetadata


@record
class Layout:
    """What gathering and scattering need to know of a model."""

    outputs: Mapping[str, str] = field(default_factory=dict)
    """Output name -> protocol datatype, in the model's order."""
    shared: frozenset[str] = frozenset()
    """Inputs without a row axis: all requests of a batch have equal ones, and the executor gets one
    of them as it came."""
    batched: bool = True
    """Whether outputs have a row axis. A model without one is given a single request at a time, and
    its answers are that request's, whole."""
    parameters: tuple[str, ...] = ()
    """Request parameters that the executor reads."""
    full: int = 0
    """Rows that every batch is filled up to, for an executor that takes no fewer; 0 fills nothing."""


def layout_of(metadata: ModelMetadata) -> Layout:
    """The layout of a model that is served as `metadata` says."""
    return Layout(
        {spec.name: spec.datatype for spec in metadata.outputs},
        frozenset(spec.name for spec in metadata.inputs if not spec.batched),
        all(spec.batched for spec in metadata.outputs),
        metadata.parameters,
    )
