"""The model of `kills`: doubles what it gets, and does to its process what a row asks for."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np

from batcher.executors.python import Rows

BATCH_S = 0.002
"""What a batch takes."""


def _hang() -> None:
    threading.Event().wait()


def _crash() -> None:
    ctypes.string_at(0)


def _close_files() -> None:
    os.closerange(0, 4096)


def _exit_thread() -> None:
    sys.exit("the executor has had enough")


def _flood() -> None:
    """Write 64 MiB to stdout, which must hold up nothing, and die."""
    for _ in range(1024):
        os.write(1, b"x" * 65535 + b"\n")
    os.kill(os.getpid(), 9)


def _too_large() -> None:
    np.ones(1 << 46)


FAULTS: dict[int, Callable[[], None]] = {
    1: lambda: os._exit(3),
    2: _crash,
    3: _hang,
    4: _close_files,
    5: _flood,
    6: _exit_thread,
    7: _too_large,
}
"""What a row may ask for, in its last value. The last two cost the request alone."""


def double(
    x: Annotated[np.ndarray, Rows("FP32", 4, name="X")],
) -> Annotated[np.ndarray, Rows("FP32", 4, name="Y")]:
    """Twice the input."""
    time.sleep(BATCH_S)
    fault = FAULTS.get(int(x[:, 3].max()))
    if fault is not None:
        fault()
    return np.asarray(2.0 * x, np.float32)
