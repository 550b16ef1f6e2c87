"""The device behind every peer: 5 ms + 0.5 ms a row, exclusive on this machine; `Y` is twice `X`.

It runs inside other servers, so it needs numpy alone. The lock is a file's (`flock`): workers in
several processes, which some servers start, take turns like kernels that fill a GPU. The wait is
one sleep, as in the executor `emulated` of this project.
"""

import ctypes
import fcntl
import os
import threading
import time

import numpy as np

BASE_S, ROW_S, MOST_ROWS, COLUMNS = 5e-3, 0.5e-3, 32, 16
LOCK = "BATCHER_PEERS_LOCK"
"""The environment variable that names the lock's file."""

_PR_SET_TIMERSLACK = 29
_threads = threading.local()


def _exact_sleep():
    """Sleeps of this thread end on time: the kernel adds up to 0.05 ms otherwise."""
    if not getattr(_threads, "exact", False):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        _threads.exact = True


class Device:
    """Executes one batch at a time, whichever process or thread it comes from."""

    def __init__(self):
        self._file = os.open(os.environ[LOCK], os.O_RDWR | os.O_CREAT, 0o600)
        self._here = threading.Lock()

    def run(self, x):
        """Return twice `x`, FP32 [rows, 16], after the time of a batch of so many rows.

        Raises ValueError for more than 32 rows or another width.
        """
        if x.ndim != 2 or x.shape[1] != COLUMNS or not 1 <= x.shape[0] <= MOST_ROWS:
            raise ValueError(f"the device takes [1 to {MOST_ROWS}, {COLUMNS}], not {x.shape}")
        _exact_sleep()
        with self._here:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                ends = time.monotonic() + BASE_S + ROW_S * x.shape[0]
                y = x * np.float32(2)
                left = ends - time.monotonic()
                if left > 0:
                    time.sleep(left)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return y
