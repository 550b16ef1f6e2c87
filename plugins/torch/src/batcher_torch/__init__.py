"""The PyTorch executor of batcher: loads a model with PyTorch and executes batches.

`options` defines the options of the configuration. `files` tells what a file is, and whether loading
it would run a pickle; `loading` makes a callable of a file or a factory. `signature` has its inputs
and outputs, from the exported program or from the options. `memory`, `threads` and `devices` ask what
a machine has. `shapes` lists the batches that a model is compiled or captured for. `cpu` and `cuda`
run a batch on their device, `results` turns what a model returned into named arrays, and `messages`
turns PyTorch's errors into one plain line. `executor` puts these together.

torch itself is the extra `[torch]`, because which build of it is right depends on the device: an
image brings its own, and a CPU needs another one than a GPU.
"""

from __future__ import annotations

try:
    import torch as _torch
except ImportError as error:
    raise ImportError(
        "torch is not installed or does not load: install the build for your device as "
        f"https://pytorch.org/get-started says: {error}"
    ) from error

from batcher_torch.executor import TorchExecutor

__all__ = ["TorchExecutor"]

del _torch
