"""The inputs, outputs and parameters of a function, from its annotations or the configuration."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args, get_origin

import numpy as np

from batcher.errors import ModelLoadError, describe
from batcher.executor import DTYPES, Batch, LoadContext, TensorSpec
from batcher.executors.python.annotations import Parameter, Row, Rows, Shared
from batcher.executors.python.options import PythonOptions
from batcher.executors.python.target import Target
from batcher.executors.remote.tensor_options import TensorOption, declared

__all__ = ["Argument", "Interface", "ParameterArgument", "read_interface"]

_VALUES: Final[dict[Any, str]] = {
    str: "BYTES",
    bytes: "BYTES",
    bool: "BOOL",
    int: "INT64",
    float: "FP64",
}
"""Python's types of one value -> the datatype that they are sent as, unless an annotation names one."""
_KINDS: Final = {str: "O", bytes: "O", bool: "b", int: "iu", float: "f"}
"""Python's types of one value -> the kinds of numpy dtypes that they can be the values of."""
_ARRAYS: Final = (np.ndarray,)


@dataclass(frozen=True, slots=True)
class Argument:
    """An input, and how the function gets it."""

    name: str
    """The argument's name."""
    spec: TensorSpec
    value: type | None = None
    """The type of its values, for a function that takes Python values; None for arrays."""
    many: bool = False
    """Whether values come as a list."""


@dataclass(frozen=True, slots=True)
class ParameterArgument:
    """A request parameter, and how the function gets it."""

    name: str
    """The argument's name."""
    parameter: str
    """The parameter's name in requests."""
    kind: type | None = None
    """bool, int, float or str; None for any."""
    required: bool = False
    """Whether the argument has no default."""


@dataclass(frozen=True, slots=True)
class Interface:
    """How a function is called, and what it returns."""

    inputs: tuple[Argument, ...]
    outputs: tuple[TensorSpec, ...]
    fields: tuple[str, ...]
    """For each output, the key or attribute of the result that has it."""
    parameters: tuple[ParameterArgument, ...]
    per_row: bool
    batch: str | None
    """The name of the argument that gets the `Batch`; None if there is none."""


@dataclass(slots=True)
class _Found:
    """A value's annotation, read."""

    marker: Rows | Row | Shared | Parameter | None
    kind: Any
    """What remains of the annotation: a type, or the element's type of a list."""
    many: bool
    """Whether it is a list."""


class _Problem(Exception):
    """What is wrong with the function; becomes a `ModelLoadError` that names the option."""


def read_interface(context: LoadContext, options: PythonOptions, target: Target) -> Interface:
    """The interface of what the options name.

    Raises `ModelLoadError`, which names the option, the argument or output, and what is allowed.
    """
    try:
        return _Reader(context, options, target).read()
    except _Problem as problem:
        raise ModelLoadError(
            f"model {context.model!r}: option target: {target.name} {problem}"
        ) from None


class _Reader:
    def __init__(self, context: LoadContext, options: PythonOptions, target: Target) -> None:
        self._context, self._options = context, options
        try:
            parameters = list(inspect.signature(target.call).parameters.values())
        except (TypeError, ValueError):
            raise _Problem(
                "has no signature; allowed: a function of Python, which may call it"
            ) from None
        try:
            self._hints = typing.get_type_hints(_function(target.call), include_extras=True)
        except Exception as error:  # noqa: BLE001 - annotations are evaluated
            raise _Problem(f"has annotations that cannot be read: {describe(error)}") from None
        if not target.bound and parameters:
            del parameters[0]
        self._arguments = {each.name: each for each in parameters}
        self._any_name = any(each.kind is each.VAR_KEYWORD for each in parameters)
        self._per_row: dict[str, bool] = {}
        """Argument or output -> whether its annotation is of one row."""

    def read(self) -> Interface:
        self._check_kinds()
        found = {
            name: self._read(name, f"argument {name!r}")
            for name, argument in self._arguments.items()
            if argument.kind not in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL)
        }
        batch = next((name for name, each in found.items() if each.kind is Batch), None)
        found.pop(batch or "", None)
        parameters = tuple(self._parameters(found))
        for each in parameters:
            found.pop(each.name, None)
        inputs = tuple(self._declared_inputs(found) or self._inputs(found))
        if not inputs:
            raise _Problem(
                "has no inputs; allowed: an argument that is annotated, or option inputs"
            )
        outputs, fields = self._outputs()
        return Interface(inputs, outputs, fields, parameters, self._is_per_row(), batch)

    def _check_kinds(self) -> None:
        for name, argument in self._arguments.items():
            if argument.kind is argument.POSITIONAL_ONLY and argument.default is argument.empty:
                raise _Problem(
                    f"takes {name!r} by position; allowed: arguments that can be given by name"
                )

    def _is_per_row(self) -> bool:
        """Whether the function takes one row; the annotations must agree, and the option with them."""
        if not self._context.max_batch_size:
            return False  # a batch is one request, and has no rows
        said = set(self._per_row.values())
        if len(said) > 1:
            one = next(name for name, row in self._per_row.items() if row)
            all_ = next(name for name, row in self._per_row.items() if not row)
            raise _Problem(
                f"takes or returns one row in {one} and all rows in {all_}; allowed: one of the two"
                " (Rows(...) and list[...] are all rows, Row(...) and plain values one)"
            )
        if said == {False} and self._options.per_row:
            raise _Problem(
                f"takes all rows in {next(iter(self._per_row))}, and option per_row is true; allowed: false"
            )
        return said == {True} or self._options.per_row

    def _declared(self, kind: str, options: tuple[TensorOption, ...]) -> tuple[TensorSpec, ...]:
        specs = declared(self._context, kind, options)
        if self._context.max_batch_size:
            return specs
        return tuple(dataclasses.replace(spec, batched=False) for spec in specs)

    # Inputs

    def _parameters(self, found: Mapping[str, _Found]) -> Iterator[ParameterArgument]:
        for name, each in found.items():
            required = self._arguments[name].default is inspect.Parameter.empty
            if isinstance(each.marker, Parameter):
                if each.kind is not Any and each.kind not in (bool, int, float, str):
                    raise _Problem(
                        f"takes the parameter {name!r} as {_shown(each.kind)}; allowed: bool, int, float, str"
                    )
                kind = None if each.kind is Any else each.kind
                yield ParameterArgument(name, each.marker.name or name, kind, required)
        for name in self._options.parameters:
            if name in found and not isinstance(found[name].marker, Parameter):
                required = self._arguments[name].default is inspect.Parameter.empty
                yield ParameterArgument(name, name, None, required)
            elif self._any_name and name not in found:
                yield ParameterArgument(name, name)
            elif name not in found:
                raise _Problem(
                    f"has no argument {name!r}, which option parameters names; {self._takes()}"
                )

    def _declared_inputs(self, found: Mapping[str, _Found]) -> Iterable[Argument]:
        """The inputs that the configuration declares, if it declares any."""
        options = self._options.inputs
        if not options:
            return ()
        specs = self._declared("inputs", options)
        for spec in specs:
            if spec.name not in found and not self._any_name:
                raise _Problem(
                    f"has no argument {spec.name!r}, which option inputs names; {self._takes()}"
                )
        names = {spec.name for spec in specs}
        for name in found:
            if name not in names and self._arguments[name].default is inspect.Parameter.empty:
                raise _Problem(
                    f"takes {name!r}, and option inputs has {_listed(names)}; allowed: an input for"
                    " each argument without a default"
                )
        for option, spec in zip(options, specs, strict=True):
            argument = self._arguments.get(spec.name)
            if option.optional and argument is not None and argument.default is argument.empty:
                raise _Problem(
                    f"has no default for {spec.name!r}, which option inputs says is optional;"
                    " allowed: an argument with a default"
                )
        return [Argument(spec.name, spec) for spec in specs]

    def _inputs(self, found: Mapping[str, _Found]) -> Iterator[Argument]:
        for name, each in found.items():
            if each.kind is None:
                if self._arguments[name].default is not inspect.Parameter.empty:
                    continue
                raise _Problem(
                    f"does not say what {name!r} is; allowed: an annotation such as"
                    ' Annotated[np.ndarray, Rows("FP32", 4)], str or float, or option inputs'
                )
            spec, value = self._spec(each, name, f"argument {name!r}")
            optional = self._arguments[name].default is not inspect.Parameter.empty
            shared = isinstance(each.marker, Shared) or not self._context.batched.get(
                spec.name, True
            )
            if shared and self._context.max_batch_size:
                dims = spec.dims[1:]
                spec = dataclasses.replace(spec, shape=spec.shape[1:], dims=dims, batched=False)
            else:
                self._per_row[f"argument {name!r}"] = _of_one_row(each)
            yield Argument(name, dataclasses.replace(spec, optional=optional), value, each.many)

    # Outputs

    def _outputs(self) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
        options = self._options.outputs
        if options:
            specs = self._declared("outputs", tuple(map(_not_optional, options)))
            return specs, tuple(spec.name for spec in specs)
        found: list[TensorSpec] = []
        fields = []
        for field, name, each in self._returned():
            if isinstance(each.marker, (Shared, Parameter)):
                raise _Problem(
                    f"returns {name!r} as {each.marker!r}; allowed: Rows(...) or Row(...)"
                )
            spec, _ = self._spec(each, name, f"output {name!r}")
            self._per_row[f"output {name!r}"] = _of_one_row(each)
            found.append(spec)
            fields.append(field)
        names = [spec.name for spec in found]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise _Problem(
                f"returns two outputs of the name {twice!r}; allowed: Rows(..., name=...)"
            )
        return tuple(found), tuple(fields)

    def _returned(self) -> Iterator[tuple[str, str, _Found]]:
        """Each output: its key or attribute in the result, its name, its annotation."""
        hint = self._hints.get("return")
        if hint is None or hint is type(None):
            raise _Problem(
                "does not say what it returns; allowed: an annotation such as"
                ' Annotated[np.ndarray, Rows("FP32", 2)], str or float, or option outputs'
            )
        if get_origin(hint) is tuple:
            parts = get_args(hint)
            if not parts or Ellipsis in parts:
                raise _Problem("returns a tuple of any length; allowed: tuple[first, second, ...]")
            named = [(f"output{place}", part) for place, part in enumerate(parts)]
        elif isinstance(hint, type) and (
            typing.is_typeddict(hint) or dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")
        ):
            named = list(typing.get_type_hints(hint, include_extras=True).items())
        else:
            named = [("output", hint)]
        for field, part in named:
            yield field, field, self._found(part, f"output {field!r}")

    # Annotations

    def _read(self, name: str, what: str) -> _Found:
        if name not in self._hints:
            return _Found(None, None, many=False)
        return self._found(self._hints[name], what)

    def _found(self, hint: Any, what: str) -> _Found:
        """Read an annotation. `X | None` is X."""
        if get_origin(hint) in (typing.Union, types.UnionType):
            rest = [each for each in get_args(hint) if each is not type(None)]
            if len(rest) == 1:
                return self._found(rest[0], what)
        marker = None
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            markers = [each for each in extras if isinstance(each, (Rows, Row, Shared, Parameter))]
            if len(markers) > 1:
                raise _Problem(f"describes {what} twice: {markers[0]!r} and {markers[1]!r}")
            marker = markers[0] if markers else None
            unmade = next((each for each in extras if each in (Rows, Row, Shared)), None)
            if unmade is not None:
                raise _Problem(
                    f'describes {what} with {unmade.__name__}; allowed: {unmade.__name__}("FP32", ...)'
                )
            if Parameter in extras:
                marker = Parameter()
            if get_origin(hint) in (typing.Union, types.UnionType):
                found = self._found(hint, what)
                return _Found(marker or found.marker, found.kind, found.many)
        if get_origin(hint) is list or hint is list:
            inner = get_args(hint)
            return _Found(marker, inner[0] if inner else Any, many=True)
        if isinstance(get_origin(hint), type) and issubclass(get_origin(hint), np.ndarray):
            hint = np.ndarray
        return _Found(marker, hint, many=False)

    def _spec(self, each: _Found, name: str, what: str) -> tuple[TensorSpec, type | None]:
        """The spec of an annotation with the batch axis first, and the type of its Python values."""
        marker = each.marker
        is_array = each.kind in _ARRAYS and not each.many
        value = each.kind if each.kind in _VALUES else None
        if not is_array and value is None:
            raise _Problem(
                f"has the annotation {_shown(each.kind, many=each.many)} for {what}; allowed:"
                f" {', '.join(kind.__name__ for kind in _VALUES)}, list[...] of one of these, or"
                ' Annotated[np.ndarray, Rows("FP32", 4)]'
            )
        if marker is None and value is not None:
            marker = (Rows if each.many else Row)(_VALUES[value])
        if not isinstance(marker, (Rows, Row, Shared)):
            raise _Problem(
                f"does not say what array {what} is; allowed: such as"
                ' Annotated[np.ndarray, Rows("FP32", 4)]'
            )
        if (
            value is not None
            and each.many is not isinstance(marker, Rows)
            and not isinstance(marker, Shared)
        ):
            shown = _shown(each.kind, many=each.many)
            other = "Row" if isinstance(marker, Rows) else "Rows"
            raise _Problem(f"has {shown} with {marker!r} for {what}; allowed: {other}(...)")
        if marker.datatype not in DTYPES:
            raise _Problem(f"has {marker!r} for {what}; allowed: {', '.join(DTYPES)}")
        if value is not None:
            self._check_value(value, marker, what)
        return self._tensor(marker, marker.name or name, what), value

    def _check_value(self, value: type, marker: Rows | Row | Shared, what: str) -> None:
        if marker.axes:
            raise _Problem(
                f"has {value.__name__} with {marker!r} for {what}; allowed: np.ndarray, or no axes"
            )
        kind = DTYPES[marker.datatype].kind
        if kind not in _KINDS[value] or marker.datatype == "BF16":
            allowed = [
                name
                for name, dtype in DTYPES.items()
                if dtype.kind in _KINDS[value] and name != "BF16"
            ]
            raise _Problem(
                f"has {value.__name__} with {marker!r} for {what}; allowed: {', '.join(allowed)}"
            )

    def _tensor(self, marker: Rows | Row | Shared, name: str, what: str) -> TensorSpec:
        for axis in marker.axes:
            fits = isinstance(axis, str) or (type(axis) is int and (axis == -1 or axis > 0))
            if not fits or axis == "":
                raise _Problem(
                    f"has {marker!r} for {what}; allowed: axes of one row, each a length from 1, -1 for"
                    " any, or a name"
                )
        shape = tuple(-1 if isinstance(axis, str) else axis for axis in marker.axes)
        dims = tuple(axis if isinstance(axis, str) else None for axis in marker.axes)
        batched = self._context.max_batch_size > 0
        if batched or isinstance(marker, Rows):
            shape, dims = (-1, *shape), (None, *dims)
        named = dims if any(dims) else ()
        return TensorSpec(name, marker.datatype, shape, dims=named, batched=batched)

    def _takes(self) -> str:
        names = [n for n, each in self._arguments.items() if each.kind is not each.VAR_KEYWORD]
        return f"it takes {_listed(names)}"


def _function(call: Any) -> Any:
    """The function that has the annotations of something that can be called."""
    if isinstance(call, functools.partial):
        return _function(call.func)
    return inspect.unwrap(call if inspect.isroutine(call) else type(call).__call__)


def _of_one_row(each: _Found) -> bool:
    if isinstance(each.marker, (Rows, Row)):
        return isinstance(each.marker, Row)
    return not each.many


def _not_optional(option: TensorOption) -> TensorOption:
    return option.model_copy(update={"optional": False})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _shown(kind: Any, *, many: bool = False) -> str:
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    return f"list[{name}]" if many else name
