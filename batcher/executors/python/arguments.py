"""A batch as the arguments of a function: of all rows, or of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from batcher.executor import Array, Batch, ParameterValue
from batcher.executors.python.interface import Argument, Interface, ParameterArgument

__all__ = ["Arguments"]

_KINDS: Final[dict[type, tuple[str, tuple[type, ...]]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("text", (str,)),
}
"""The type of a parameter's argument -> how it is called, and the types that fit it."""


class Arguments:
    """The arguments for one batch, and what is wrong with rows already.

    Arrays are read-only views: whether memory could be written to would depend on the batch.
    """

    def __init__(self, interface: Interface, batch: Batch) -> None:
        self.row_errors: dict[int, str] = {}
        """Row -> what is wrong with its text. The function gets empty text there."""
        self._rows = batch.rows
        self._common: dict[str, Any] = {}
        """What belongs to all rows."""
        self._by_row: dict[str, Any] = {}
        """Argument -> what is indexed by the row."""
        if interface.batch is not None:
            self._common[interface.batch] = batch
        for each in interface.parameters:
            self._add_parameter(each, batch.parameters)
        for argument in interface.inputs:
            array = batch.inputs.get(argument.spec.name)
            if array is not None:
                self._add_input(argument, array)

    @property
    def whole(self) -> dict[str, Any]:
        """For a function that takes all rows."""
        return {**self._common, **self._by_row}

    def each_row(self) -> Iterator[dict[str, Any]]:
        """For a function that takes one row: for each row, wrong ones too."""
        names = [*self._common, *self._by_row]
        common = tuple(self._common.values())
        each = zip(*self._by_row.values(), strict=True) if self._by_row else [()] * self._rows
        for values in each:
            yield dict(zip(names, common + values, strict=True))

    def _add_parameter(
        self, argument: ParameterArgument, given: Mapping[str, ParameterValue]
    ) -> None:
        value = given.get(argument.parameter)
        if value is None:
            if argument.required:
                self._all_wrong(f"the request parameter {argument.parameter!r} is missing")
            return
        if argument.kind is not None:
            name, kinds = _KINDS[argument.kind]
            if type(value) not in kinds:
                self._all_wrong(f"the request parameter {argument.parameter!r} must be {name}")
                return
            value = argument.kind(value)
        self._common[argument.name] = value

    def _all_wrong(self, text: str) -> None:
        """A parameter is wrong, which all requests of a batch have in common."""
        for row in range(self._rows):
            self.row_errors.setdefault(row, text)

    def _add_input(self, argument: Argument, array: Array) -> None:
        place = self._by_row if argument.spec.batched else self._common
        if argument.value is None:
            view = array.view()
            view.flags.writeable = False
            place[argument.name] = view
            return
        values = array.reshape(-1).tolist()
        if argument.value is str:
            values = list(self._texts(argument, values))
        place[argument.name] = values if argument.spec.batched or argument.many else values[0]

    def _texts(self, argument: Argument, values: Sequence[bytes]) -> Iterator[str]:
        for row, value in enumerate(values):
            try:
                yield value.decode()
            except UnicodeDecodeError:
                text = f"input {argument.spec.name!r} is not UTF-8"
                if argument.spec.batched:
                    self.row_errors.setdefault(row, text)
                else:
                    self._all_wrong(text)
                yield ""
