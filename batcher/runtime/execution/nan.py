"""Fails rows whose outputs contain NaN, for models with `on_nan: fail`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from batcher.clock import Clock
from batcher.executor import Array
from batcher.runtime.execution.execute import ExecutedBatch, set_failure
from batcher.runtime.execution.gather import Slice
from batcher.runtime.interface.layout import Layout

_FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})
_BF16_INFINITY: Final = 0x7F80
_BF16_MAGNITUDE: Final = 0x7FFF


def fail_nan_rows(executed: ExecutedBatch, layout: Layout, slices: Sequence[Slice]) -> None:
    """Add a row error for each row whose outputs contain NaN, unless the row has an error.

    Only the outputs that the row's own request asked for count. A result without NaN costs one pass
    over its values.
    """
    result = executed.result
    if result is None:
        return
    errors: dict[int, str] = {}
    for name, datatype in layout.outputs.items():
        array = result.outputs.get(name)
        if array is None or not _has_nan(array, datatype):
            continue
        asked = _asked(name, slices)
        found = _nan_rows(array if layout.batched else array[np.newaxis], datatype)
        for row in np.flatnonzero(found).tolist():
            if row in asked:
                errors.setdefault(row, f"output {name!r} contains NaN")
    if errors:
        executed.result = replace(result, row_errors={**errors, **result.row_errors})


def _asked(name: str, slices: Sequence[Slice]) -> set[int]:
    """The rows whose requests asked for this output."""
    rows: set[int] = set()
    start = 0
    for each in slices:
        stop = start + each.stop - each.start
        wanted = each.request.outputs
        if wanted is None or name in wanted:
            rows.update(range(start, stop))
        start = stop
    return rows


def _has_nan(array: Array, datatype: str) -> bool:
    if not array.size:
        return False
    if datatype in _FLOATS:
        # The minimum is NaN if any value is, and allocates no array.
        with np.errstate(invalid="ignore"):
            return bool(np.isnan(array.min()))
    return datatype == "BF16" and bool(_bf16_nan(array).any())


def _nan_rows(array: Array, datatype: str) -> NDArray[np.bool_]:
    """Which rows contain NaN."""
    found: NDArray[np.bool_] = _bf16_nan(array) if datatype == "BF16" else np.isnan(array)
    rows: NDArray[np.bool_] = np.logical_or.reduce(found.reshape(len(array), -1), axis=1)
    return rows


def _bf16_nan(array: NDArray[np.uint16]) -> NDArray[np.bool_]:
    return np.greater(np.bitwise_and(array, _BF16_MAGNITUDE), _BF16_INFINITY)


def check_nan(
    executed: ExecutedBatch, layout: Layout, slices: Sequence[Slice], clock: Clock
) -> None:
    """Call `fail_nan_rows`; if it raises, the batch has failed."""
    try:
        fail_nan_rows(executed, layout, slices)
    except Exception as error:  # noqa: BLE001 - arrays are a plugin's own
        executed.release()
        executed.result = None
        set_failure(executed, error, clock)
