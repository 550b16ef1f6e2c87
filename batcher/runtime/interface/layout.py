"""Which inputs and outputs of a model have a batch axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from batcher.core.record import record
from batcher.executor import ModelMetadata


@record
class Layout:
    """What gathering and scattering need to know about a model."""

    outputs: Mapping[str, str] = field(default_factory=dict)
    """Output name -> protocol datatype, in the model's order."""
    shared: frozenset[str] = frozenset()
    """Inputs without a batch axis: equal in all requests of a batch; the executor gets one of them."""
    batched: bool = True
    """Whether the outputs have a batch axis. Without one, a batch is a single request."""
    parameters: tuple[str, ...] = ()
    """The request parameters that the executor reads."""
    full: int = 0
    """Rows to fill every batch up to, for an executor with fixed rows; 0: do not fill."""


def layout_of(metadata: ModelMetadata) -> Layout:
    """The layout of a model with this metadata."""
    return Layout(
        {spec.name: spec.datatype for spec in metadata.outputs},
        frozenset(spec.name for spec in metadata.inputs if not spec.batched),
        all(spec.batched for spec in metadata.outputs),
        metadata.parameters,
    )
