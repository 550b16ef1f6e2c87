"""The ONNX Runtime executor of batcher: loads a model file and executes batches.

`options` defines the options of the configuration, `session` makes an ONNX Runtime session of them,
`providers` checks that it uses the execution providers that were asked for, `signature` reads the
model's inputs and outputs from it, `executor` executes batches, and `messages` turns ONNX Runtime's
errors into one plain line. onnxruntime itself is an extra, because two packages have the same
module: `[cpu]` installs `onnxruntime`, `[gpu]` installs `onnxruntime-gpu`.
"""

from __future__ import annotations

import os

# Newer wheels of onnxruntime send statistics of its use to its makers over the network, on Linux as well,
# and keep an identifier of the machine in the home folder. This is read once, when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime as _onnxruntime
except ImportError as error:
    raise ImportError(
        "onnxruntime is not installed or does not load: pip install onnxruntime (or "
        f"onnxruntime-gpu): {error}"
    ) from error

from batcher_onnxruntime.executor import OnnxRuntimeExecutor

__all__ = ["OnnxRuntimeExecutor"]

del _onnxruntime
