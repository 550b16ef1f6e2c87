"""Sizes of PyTorch's thread pools on the CPU.

With OpenMP, which PyTorch's builds for Linux use, the number of threads inside an operator belongs to
the thread that calls it: each instance sets its own, on the thread that it computes on. The pool for
TorchScript's parallel parts is one for the whole process, and its size can be set once.
"""

from __future__ import annotations

from typing import Final

import torch

from batcher.errors import ModelLoadError
from batcher_torch.options import ThreadOptions

_USUAL: Final = torch.get_num_threads()
"""Threads inside an operator that PyTorch takes by itself. A new thread starts with what was set last."""


class IntraOp:
    """The threads inside an operator, for one instance."""

    def __init__(self, options: ThreadOptions) -> None:
        self.count = options.intra_op or _USUAL

    def use(self) -> None:
        """Set them for what this thread computes from now on."""
        if torch.get_num_threads() != self.count:
            torch.set_num_threads(self.count)


def set_inter_op(options: ThreadOptions, label: str) -> None:
    """Set the size of the process's pool, if the options say one.

    Raises `ModelLoadError` if it has another size already, which cannot be changed any more.
    """
    wanted, size = options.inter_op, torch.get_num_interop_threads()
    if wanted in (0, size):
        return
    try:
        torch.set_num_interop_threads(wanted)
    except RuntimeError:
        raise ModelLoadError(
            f"{label}: option threads.inter_op: got {wanted}, and this process has a pool of {size}, "
            "which cannot change any more: another model has set it or uses it. Allowed: the same "
            "number for all models of a process, or isolation: process, where each has its own"
        ) from None
