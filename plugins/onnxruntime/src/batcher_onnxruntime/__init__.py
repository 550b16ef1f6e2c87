"""The ONNX Runtime executor of batcher: reads a model file, runs batches of its rows.

`options` is what the configuration may say, `session` makes an ONNX Runtime session of it and turns
its troubles into plain words, `signature` reads from the session what the model takes and gives,
`executor` runs batches. onnxruntime itself comes with one of two extras, because both packages
install the same module: `[cpu]` stands for `onnxruntime`, `[gpu]` for `onnxruntime-gpu`.
"""

from __future__ import annotations

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
