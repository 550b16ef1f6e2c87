"""Which inputs and outputs of a model have a batch axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from batcher.core.batch_sizes import filled_rows
from batcher.core.record import record
from batcher.executor import Capabilities, ModelMetadata


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
    batch_sizes: tuple[int, ...] = ()
    """The rows that a batch may have, ascending: it is filled up to the next. (): any."""
    metadata: tuple[str, ...] = ()
    """The names of the callers' metadata that the executor sends on."""
    raw: bool = False
    """Whether the executor takes raw contents instead of arrays."""
    inner: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Output name -> its axes after the batch axis, -1 for any length."""

    def filled(self, rows: int) -> int:
        """The rows that a batch with `rows` rows of requests is executed with.

        Beyond the largest size it is not filled.
        """
        return filled_rows(rows, self.batch_sizes)


def layout_of(metadata: ModelMetadata) -> Layout:
    """The layout of a model with this metadata."""
    return Layout(
        {spec.name: spec.datatype for spec in metadata.outputs},
        frozenset(spec.name for spec in metadata.inputs if not spec.batched),
        all(spec.batched for spec in metadata.outputs),
        metadata.parameters,
        metadata=metadata.metadata,
        inner={spec.name: spec.inner for spec in metadata.outputs if spec.batched},
    )


class LayoutFor:
    """Makes of a model's layout the one that an executor with these capabilities needs.

    It is the same layout for each batch, so the last one is kept. Call `loaded` first.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._plain = capabilities.dynamic_rows and not capabilities.raw
        self._sizes: tuple[int, ...] = ()
        self._last: tuple[Layout, Layout] | None = None

    def loaded(self, max_batch_size: int) -> None:
        """The executor is loaded with batches of at most so many rows."""
        fixed = not self._capabilities.dynamic_rows and max_batch_size > 0
        self._sizes = (max_batch_size,) if fixed else ()
        self._last = None

    def __call__(self, layout: Layout) -> Layout:
        """The layout for a batch of the executor."""
        if self._plain:
            return layout
        if self._last is None or self._last[0] is not layout:
            sizes = layout.batch_sizes or self._sizes
            fitted = replace(layout, batch_sizes=sizes, raw=self._capabilities.raw)
            self._last = layout, fitted
        return self._last[1]
