"""What a loaded model and its configuration together make likely to go badly, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batcher.config import ModelConfig
    from batcher.executor import ModelMetadata


def lengths_apart(model: ModelConfig, metadata: ModelMetadata) -> str | None:
    """Why requests of different lengths will not share batches, and what to do; None where they may.

    That is so where an input has a variable axis for which nothing is configured under `padding`.
    """
    if model.batching.most_rows == 1 or model.batching.policy == "none":
        return None
    padded = {(each.input, each.axis) for each in model.padding}
    axes = [
        f"{spec.name} axis {axis}"
        for spec in metadata.inputs
        for axis, size in enumerate(spec.inner, len(spec.shape) - len(spec.inner))
        if size < 0 and (spec.name, axis) not in padded
    ]
    if not axes:
        return None
    verb = "varies" if len(axes) == 1 else "vary"
    return (
        f"{', '.join(axes)} {verb} in length and {'is' if len(axes) == 1 else 'are'} not padded, so only"
        " requests of equal length share a batch: with many lengths, batches of one or two rows. If the"
        " model allows padding, name the axes under `padding` with buckets (docs/shapes.md; `batcher"
        " buckets` proposes some from lengths or an event log)"
    )
