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
from batcher_onnxruntime.messages import is_out_of_memory, load_problem
from batcher_onnxruntime.options import OnnxRuntimeOptions

_log = logging.getLogger(__name__)

_OPTIMIZATION: Final = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
QUIET: Final = 4
"""Log severity "fatal": errors are reported by this plugin, and not on the terminal as well."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session, and facts about it for `ModelMetadata.properties`."""

    session: Any
    properties: dict[str, str]


def open_session(context: LoadContext, options: OnnxRuntimeOptions) -> OpenedSession:
    """Load the file. Raises `ModelLoadError`, which names the model, and the file or the option.

    It is an `OutOfMemory` where the device has no room for the model.
    """
    label = f"model {context.model!r}"
    check_file(options.path, label)
    try:
        asked = providers.requested_providers(options, context.device)
    except providers.ProviderError as error:
        raise ModelLoadError(f"{label}: {error}") from None
    available = ort.get_available_providers()
    names = [provider.name for provider in asked]
    elsewhere = providers.off_device(names, context.device)
    missing = elsewhere or providers.unused(names, available, None)
    if missing and not options.allow_fallback:
        raise ModelLoadError(_refusal(label, missing))
    usable = [(w.name, dict(w.options)) for w in asked if w.name in available]
    try:
        # ONNX Runtime's own fallback would hide why a provider failed.
        session = ort.InferenceSession(
            os.fspath(options.path),
            _session_options(options),
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
    return OpenedSession(session, properties)


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


def _session_options(options: OnnxRuntimeOptions) -> Any:
    settings = ort.SessionOptions()
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
    return settings


def _refusal(label: str, problem: str) -> str:
    return f"{label}: option providers: {problem}; set option allow_fallback to true to serve without it"
