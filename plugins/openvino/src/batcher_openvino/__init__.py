"""The OpenVINO executor of batcher: loads a model file and executes batches.

`options` defines the options of the configuration, `devices` turns a device of the configuration into
OpenVINO's name for it, `signature` reads the model's inputs and outputs, `compiling` compiles the
model for a device and checks what it got, `shapes` lists the shapes of a model that is compiled for
fixed ones, `requests` runs one batch, `executor` puts these together, and `messages` turns OpenVINO's
errors into one plain line. openvino itself is the extra `[openvino]`: an image may bring its own.
"""

from __future__ import annotations

try:
    import openvino as _openvino
except ImportError as error:
    raise ImportError(
        f"openvino is not installed or does not load: pip install openvino: {error}"
    ) from error

from batcher_openvino.executor import OpenVinoExecutor

__all__ = ["OpenVinoExecutor"]

del _openvino
