"""Makes an ONNX Runtime session of the options, or a `ModelLoadError` that says why not."""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from batcher.errors import ModelLoadError, OutOfMemory
from batcher.executor import LoadContext
from batcher_onnxruntime import providers
from batcher_onnxruntime.devices import (
    GPU_PROVIDERS,
    TENSORRT,
    batch_sizes,
    input_ranges,
    profile_options,
)
from batcher_onnxruntime.messages import is_out_of_memory, load_problem, one_line
from batcher_onnxruntime.options import OnnxRuntimeOptions
from batcher_onnxruntime.signature import read_signature

_log = logging.getLogger(__name__)

_OPTIMIZATION: Final = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_OWN_ENTRIES: Final = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")
QUIET: Final = 4
"""Log severity "fatal": errors are reported by this plugin, and not on the terminal as well."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session, and facts about it for `ModelMetadata.properties`."""

    session: Any
    properties: dict[str, str]
    device: str = "cpu"
    """Where the memory of its inputs lies: `cpu` or `cuda`."""
    device_id: int = 0


def open_session(context: LoadContext, options: OnnxRuntimeOptions) -> OpenedSession:
    """Load the file. Raises `ModelLoadError`, which names the model, and the file or the option.

    It is an `OutOfMemory` where the device has no room for the model.
    """
    label = f"model {context.model!r}"
    check_file(options.path, label)
    try:
        asked = providers.requested_providers(options, context.device, context.base_dir)
    except providers.ProviderError as error:
        raise ModelLoadError(f"{label}: {error}") from None
    available = ort.get_available_providers()
    names = [provider.name for provider in asked]
    elsewhere = providers.off_device(names, context.device)
    missing = elsewhere or providers.unused(names, available, None)
    if missing and not options.allow_fallback:
        raise ModelLoadError(_refusal(label, missing))
    usable = [(w.name, dict(w.options)) for w in asked if w.name in available]
    settings = _session_options(options, label)
    usable = [
        (name, _profiles(context, options, label) | given if name == TENSORRT else given)
        for name, given in usable
    ]
    try:
        # ONNX Runtime's own fallback would hide why a provider failed.
        session = ort.InferenceSession(
            os.fspath(options.path),
            settings,
            providers=usable or [(providers.CPU, {})],
            enable_fallback=0,
        )
    except Exception as error:
        kind = OutOfMemory if is_out_of_memory(error) else ModelLoadError
        raise kind(f"{label}: the file {options.path} {load_problem(error)}") from error
    registered = session.get_providers()
    assigned = providers.assigned_nodes(session)
    problem = elsewhere or providers.unused(names, registered, assigned)
    if problem and not options.allow_fallback:
        raise ModelLoadError(_refusal(label, problem))
    properties = {
        "runtime": f"onnxruntime {ort.__version__}",
        "providers": ", ".join(map(providers.short, registered)),
    }
    if assigned:
        counts = (f"{providers.short(name)} {count}" for name, count in assigned.items())
        properties["nodes"] = ", ".join(counts)
    if problem:
        _log.warning("%s: served on other providers (allow_fallback): %s", label, problem)
        properties["fallback"] = problem
    device = "cuda" if GPU_PROVIDERS & set(registered) else "cpu"
    number = next((w.options.get("device_id", "0") for w in asked if w.name in GPU_PROVIDERS), "0")
    return OpenedSession(session, properties, device, int(number) if number.isdecimal() else 0)


def _profiles(context: LoadContext, options: OnnxRuntimeOptions, label: str) -> dict[str, str]:
    """TensorRT's options for the batch sizes and buckets in use, and the folder of its engines, made.

    The inputs are read by a session on the CPU, because a session takes its options before it has any.
    """
    if options.engine_cache is not None:
        folder = context.base_dir / options.engine_cache
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise ModelLoadError(
                f"{label}: option engine_cache: cannot make the folder {folder}: {reason}"
            ) from None
    plain = ort.SessionOptions()
    plain.log_severity_level = QUIET
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            os.fspath(options.path), plain, providers=[providers.CPU], enable_fallback=0
        )
    except Exception:  # noqa: BLE001 - the session that is wanted says why, or can load it
        return {}
    signature = read_signature(session, label, context)
    ranges = input_ranges(signature.inputs, context, batch_sizes(context, signature.fixed_rows))
    if isinstance(ranges, str):
        _log.warning("%s: TensorRT gets no profile, as %s: it builds engines anew", label, ranges)
        return {}
    return profile_options(ranges)


def check_file(path: Path, label: str) -> None:
    """Raise `ModelLoadError` unless `path` is a readable file that is not empty.

    ONNX Runtime itself would report a folder as a damaged model, and wait forever on a pipe.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelLoadError(f"{label}: option path: {path} is not a file")
        with path.open("rb"):
            pass
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ModelLoadError(
            f"{label}: option path: cannot read the model file {path}: {reason}"
        ) from None
    if status.st_size == 0:
        raise ModelLoadError(f"{label}: option path: the model file {path} is empty")


def _session_options(options: OnnxRuntimeOptions, label: str) -> Any:
    settings = ort.SessionOptions()
    settings.enable_cpu_mem_arena = options.memory.cpu_arena
    settings.log_severity_level = QUIET
    settings.intra_op_num_threads = options.threads.intra_op
    settings.graph_optimization_level = _OPTIMIZATION[options.graph_optimization]
    if options.threads.inter_op > 1:
        settings.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        settings.inter_op_num_threads = options.threads.inter_op
    spinning = str(int(options.spinning))
    settings.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    settings.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in options.session_options.items():
        if key in _OWN_ENTRIES:
            raise ModelLoadError(
                f"{label}: option session_options: got {key}; allowed: option spinning says that"
            )
        text = str(int(value)) if isinstance(value, bool) else str(value)
        try:
            settings.add_session_config_entry(key, text)
        except Exception as error:
            raise ModelLoadError(
                f"{label}: option session_options: onnxruntime {ort.__version__} refuses {key!r}:"
                f" {one_line(error)}"
            ) from error
    return settings


def _refusal(label: str, problem: str) -> str:
    return f"{label}: option providers: {problem}; set option allow_fallback to true to serve without it"
