"""A model whose batches take known times, and that writes down what it executed, on its own clock.

Each object appends a line of JSON for its load, the begin and the end of every batch, and its end, so
a process that is stopped or killed has said all that it did. `X` is FP32 [rows, 4]: the number of the
request, what to do (`DEEDS`), and two values that mean nothing.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from batcher.executor import LoadContext
from batcher.executors.python import RowError, Rows

COLUMNS = 4
DEEDS = {"": 0, "hang": 1, "fail": 2, "wide": 3}
"""What a request may ask for: that its batch hangs until it is released, or that its row fails."""

HANGS_S = 60.0
"""The longest that a batch hangs, if nothing releases it."""


class Device:
    """Takes `base_ms` and `row_ms` for each row; hangs until the file `release` exists."""

    def __init__(
        self, log: str, base_ms: float, row_ms: float, load_ms: float = 0.0, release: str = ""
    ) -> None:
        self._file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._base_ns, self._row_ns = round(base_ms * 1e6), round(row_ms * 1e6)
        self._load_ms = load_ms
        self._release = Path(release or "/nonexistent")
        self._batches = 0
        self._instance = ""
        self._say(kind="made")

    def load(self, context: LoadContext) -> None:
        """Take `load_ms`."""
        self._instance = str(context.instance)
        self._say(kind="loading", device=context.device)
        time.sleep(self._load_ms / 1e3)
        self._say(kind="loaded", device=context.device)

    def __call__(
        self, x: Annotated[np.ndarray, Rows("FP32", COLUMNS, name="X")]
    ) -> Annotated[np.ndarray, Rows("FP32", COLUMNS, name="Y")]:
        """Twice the input, when its time is over."""
        return self._run(x)

    def _run(self, x: np.ndarray) -> np.ndarray:
        begin_ns = time.monotonic_ns()
        self._batches += 1
        number, ids = self._batches, [int(each) for each in x[:, 0]]
        self._say(begin_ns, kind="begin", batch=number, ids=ids, width=x.shape[1])
        deeds = x[:, 1].astype(int)
        hangs = (deeds == DEEDS["hang"]).any()
        while hangs and not self._release.exists() and not _over(begin_ns, HANGS_S):
            time.sleep(0.005)
        took_ns = self._base_ns + self._row_ns * len(x) * x.shape[1] // COLUMNS
        left_ns = begin_ns + took_ns - time.monotonic_ns()
        time.sleep(max(0, left_ns) / 1e9)
        failed = (deeds == DEEDS["fail"]).any()
        self._say(kind="end", batch=number, failed=bool(failed))
        if failed:
            raise RowError("asked to fail")
        return np.asarray(2.0 * x, np.float32)

    def close(self) -> None:
        """Say so."""
        self._say(kind="closed")
        os.close(self._file)

    def _say(self, at_ns: int = 0, **what: Any) -> None:
        what |= {"at": at_ns or time.monotonic_ns(), "pid": os.getpid(), "me": id(self)}
        what["instance"] = self._instance
        os.write(self._file, json.dumps(what).encode() + b"\n")


class Padded(Device):
    """The same with rows of any length, each of which takes time in proportion to its length."""

    def __call__(
        self, x: Annotated[np.ndarray, Rows("FP32", "length", name="X")]
    ) -> Annotated[np.ndarray, Rows("FP32", "length", name="Y")]:
        """Twice the input, when its time is over."""
        return self._run(x)


def _over(since_ns: int, seconds: float) -> bool:
    return time.monotonic_ns() - since_ns > seconds * 1e9
