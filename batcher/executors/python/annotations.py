"""What a function's annotations say of its inputs and outputs, and how it refuses a row.

def score(
    features: Annotated[np.ndarray, Rows("FP32", 4)],
    threshold: Annotated[float, Parameter()] = 0.5,
) -> Annotated[np.ndarray, Rows("BOOL", name="accepted")]: ...
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Parameter", "Row", "RowError", "Rows", "Shared"]


class RowError(Exception):
    """The values of a row are wrong: its request ends with INVALID_ARGUMENT and this message.

    A function that takes one row raises it for that row, and a `ValueError` counts the same. Raised
    by a function that takes all rows of a batch, it says that some row is wrong: parts of the batch
    are executed again to find it. Such a function can name the rows itself, if it returns a
    `BatchResult` with `row_errors`.
    """


class _Axes:
    """A datatype and the axes of one row; each is a length, a name, or -1 for any length.

    Axes that have the same name are equally long. `name` is what callers call it, if that is not the
    name of the argument. For an output without a name that is `output`, or `output0`, `output1`, ...
    """

    __slots__ = ("axes", "datatype", "name")

    def __init__(self, datatype: str, *axes: int | str, name: str = "") -> None:
        self.datatype = datatype
        self.axes = axes
        self.name = name

    def __repr__(self) -> str:
        named = f"name={self.name!r}" if self.name else ""
        inner = ", ".join(filter(None, [*map(repr, (self.datatype, *self.axes)), named]))
        return f"{type(self).__name__}({inner})"


class Rows(_Axes):
    """All rows of a batch: an array `[rows, ...axes]`, or a list of values if there are no axes."""


class Row(_Axes):
    """One row: an array of these axes, or a value if there are none. The function takes one row."""


class Shared(_Axes):
    """An input that belongs to all rows of a request: only requests with equal values share a batch."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A request parameter of the argument's name. Only requests with equal values share a batch."""

    name: str = ""
    """The name that callers give it, if that is not the name of the argument."""
