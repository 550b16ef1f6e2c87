"""Makes a model of a file or a factory: what to call, with which arguments, and what comes back."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from batcher.errors import ModelLoadError, OutOfMemory
from batcher.executor import LoadContext, TensorSpec
from batcher_torch import files, memory
from batcher_torch.factories import make
from batcher_torch.messages import is_out_of_memory, one_line
from batcher_torch.options import TorchOptions
from batcher_torch.results import Picker, by_kind, by_place
from batcher_torch.signature import Signature, declared, exported_arguments, renamed

Arrange = Callable[[Mapping[str, torch.Tensor]], tuple[tuple[Any, ...], dict[str, Any]]]
"""Takes tensors by input and gives the positional and named arguments of the model."""

_loading: Final = ContextVar("batcher_torch_loading", default=False)
_one_at_a_time: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device."""

    run: Callable[..., Any]
    """The module, or another callable."""
    arrange: Arrange
    pick: Picker
    signature: Signature
    source: str
    """What it was made of, for people."""


def load_model(
    context: LoadContext, options: TorchOptions, device: torch.device, label: str
) -> LoadedModel:
    """Load the model onto the device. Raises `ModelLoadError`, which names the option and the reason.

    It is an `OutOfMemory` where the device has no room for it.
    """
    try:
        if options.factory is not None:
            return _made(context, options, device, label)
        return _from_file(context, options, Path(str(options.path)), device, label)
    except ModelLoadError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{label}: {one_line(error)}") from error
        what = options.path or options.factory
        raise ModelLoadError(f"{label}: {what} could not be loaded: {one_line(error)}") from error


def _from_file(
    context: LoadContext, options: TorchOptions, path: Path, device: torch.device, label: str
) -> LoadedModel:
    where = f"{label}: option path"
    files.check_readable(path, where)
    memory.check_file_fits(path, where)
    kind = files.kind_of(path)
    if kind is files.Kind.EXPORTED:
        return _exported(context, options, path, device, label)
    if kind is files.Kind.SCRIPT:
        return _script(context, options, path, device, label)
    if kind is files.Kind.COMPILED:
        raise ModelLoadError(
            f"{where}: {path} is {kind.value}, which belongs to one device and one version of "
            "PyTorch: save the program itself (torch.export.save), and set option compile to true"
        )
    if kind is files.Kind.PICKLE:
        if not options.allow_pickle:
            raise ModelLoadError(
                f"{where}: {path} is {kind.value}, and loading it would run Python code that is in it: "
                "save the model with torch.export.save or torch.jit.save; or, if it is a state dict, "
                "name it in option weights beside a factory; or set option allow_pickle to true if "
                "you trust the file"
            )
        return _pickled(context, options, path, device, label)
    raise ModelLoadError(f"{where}: {path} is {kind.value}, or it is damaged")


def _exported(
    context: LoadContext, options: TorchOptions, path: Path, device: torch.device, label: str
) -> LoadedModel:
    if not options.allow_pickle:
        pickled = files.pickled_part(path)
        if pickled:
            raise ModelLoadError(
                f"{label}: option path: {pickled} in {path} is a pickle, and loading it would run Python "
                "code that is in it: export the model with plain tensors as weights and constants, "
                "or set option allow_pickle to true if you trust the file"
            )
    program: Any = _quietly(lambda: torch.export.load(os.fspath(path)))
    if device.type == "cuda":
        tensors = (*program.state_dict.values(), *program.constants.values())
        size = memory.tensor_bytes(each for each in tensors if isinstance(each, torch.Tensor))
        memory.check_room(size, device, label)
    program = move_to_device_pass(program, device)
    names_given = [each.name for each in options.inputs]
    arguments = exported_arguments(program, label, context, names_given)
    inputs = renamed(arguments.signature.inputs, options.inputs, "inputs", label)
    outputs = renamed(arguments.signature.outputs, options.outputs, "outputs", label)
    names = iter(inputs)
    leaves = [
        next(names).name if isinstance(e, TensorSpec) else _Constant(e) for e in arguments.taken
    ]
    named = iter(outputs)
    returned = [None if each is None else next(named).name for each in arguments.returned]
    in_spec = program.call_spec.in_spec

    def arrange(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values = [e.value if isinstance(e, _Constant) else tensors[e] for e in leaves]
        args, kwargs = pytree.tree_unflatten(values, in_spec)
        return args, kwargs

    signature = Signature(inputs, outputs, arguments.signature.rows)
    run = _placed(program.module(), options, device)
    return LoadedModel(run, arrange, by_place(returned), signature, "torch.export")


@dataclass(frozen=True, slots=True)
class _Constant:
    value: Any


def _script(
    context: LoadContext, options: TorchOptions, path: Path, device: torch.device, label: str
) -> LoadedModel:
    if device.type == "cuda":
        memory.check_room(path.stat().st_size, device, label)
    module: Any = torch.jit.load(os.fspath(path), map_location=device)  # type: ignore[no-untyped-call]
    module.eval()
    arguments = module.forward.schema.arguments[1:]
    names = [argument.name for argument in arguments]
    required = [a.name for a in arguments if not a.has_default_value()]
    signature = _declared(context, options, "a TorchScript file does not say what it takes")
    run = _placed(module, options, device)
    arrange = _arrange(signature.inputs, names, required, any_name=False, label=label)
    return LoadedModel(run, arrange, _picker(signature), signature, "TorchScript")


def _pickled(
    context: LoadContext, options: TorchOptions, path: Path, device: torch.device, label: str
) -> LoadedModel:
    found = torch.load(path, map_location="cpu", weights_only=False)
    if not callable(found):
        raise ModelLoadError(
            f"{label}: option path: {path} has an object of type {type(found).__name__} in it; "
            "allowed: a module (a state dict belongs in option weights, beside a factory)"
        )
    if isinstance(found, torch.nn.Module):
        found.eval()
    return _called(context, options, found, device, label, "pickle")


def _made(
    context: LoadContext, options: TorchOptions, device: torch.device, label: str
) -> LoadedModel:
    if options.weights is not None:
        files.check_readable(options.weights, f"{label}: option weights")
        memory.check_file_fits(options.weights, f"{label}: option weights")
    found = make(options, context.base_dir, label)
    return _called(context, options, found, device, label, "factory")


def _called(
    context: LoadContext,
    options: TorchOptions,
    found: Any,
    device: torch.device,
    label: str,
    source: str,
) -> LoadedModel:
    signature = _declared(context, options, "Python code does not say what it takes")
    called = found.forward if isinstance(found, torch.nn.Module) else found
    names, required, any_name = _parameters(called)
    arrange = _arrange(signature.inputs, names, required, any_name=any_name, label=label)
    if device.type == "cuda" and isinstance(found, torch.nn.Module):
        memory.check_fits(found, device, label)
    run = _placed(found, options, device)
    return LoadedModel(run, arrange, _picker(signature), signature, source)


def _picker(signature: Signature) -> Picker:
    return by_kind([spec.name for spec in signature.outputs])


def _declared(context: LoadContext, options: TorchOptions, why: str) -> Signature:
    inputs = declared(context, "inputs", options.inputs, why)
    return Signature(inputs, declared(context, "outputs", options.outputs, why))


def _placed(found: Any, options: TorchOptions, device: torch.device) -> Any:
    """The model on its device, with its weights in the order that the options ask for."""
    if not isinstance(found, torch.nn.Module):
        return found
    if options.channels_last:
        return found.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found.to(device=device)


def _parameters(called: Any) -> tuple[list[str], list[str], bool]:
    """The names of the parameters of a callable, of those without a default, and whether any name will do."""
    try:
        found = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return [], [], False
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [each.name for each in found if each.kind in kinds]
    required = [e.name for e in found if e.kind in kinds and e.default is inspect.Parameter.empty]
    return names, required, any(each.kind is inspect.Parameter.VAR_KEYWORD for each in found)


def _arrange(
    inputs: Sequence[TensorSpec],
    names: Sequence[str],
    required: Sequence[str],
    *,
    any_name: bool,
    label: str,
) -> Arrange:
    """Inputs go to the model by name if it has parameters of these names, and else in their order.

    Raises `ModelLoadError` where the names fit some parameters and not others.
    """
    given = [spec.name for spec in inputs]
    known = [name for name in given if name in names]
    if not known:
        if len(given) < len(required):
            raise ModelLoadError(
                f"{label}: option inputs: got {', '.join(given)}; the model needs {', '.join(required)}"
            )
        return lambda tensors: (tuple(tensors[name] for name in given), {})
    strangers = [] if any_name else [name for name in given if name not in names]
    missing = [name for name in required if name not in given]
    if strangers or missing:
        raise ModelLoadError(
            f"{label}: option inputs: got {', '.join(given)}; the model takes {', '.join(names)}"
            + (f" and needs {', '.join(missing)}" if missing else "")
        )
    return lambda tensors: ((), {name: tensors[name] for name in given})


class _Quiet(logging.Filter):
    """Drops what PyTorch logs, with a traceback, of errors that it raises all the same."""

    def filter(self, _record: logging.LogRecord) -> bool:
        return not _loading.get()


def _quietly(load: Callable[[], Any]) -> Any:
    """The result of a loader, without what it logs. One loads at a time: PyTorch keeps it in a global."""
    token = _loading.set(True)
    try:
        with _one_at_a_time:
            return load()
    finally:
        _loading.reset(token)


for _name in ("torch.export", "torch.export.pt2_archive._package"):
    logging.getLogger(_name).addFilter(_Quiet())
