"""`Y` = 2 * X after `base + per_row * rows`; `BATCH` is the rows of the batch.

The device is a locked file, so that all instances of the model share one.
"""

import ctypes
import fcntl
import os
import time

import numpy as np
import triton_python_backend_utils as triton

PR_SET_TIMERSLACK = 29


class TritonPythonModel:
    def initialize(self, args):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
        self._base_s, self._per_row_s = map(float, os.environ["MODEL_SERVER_TIMES"].split())
        self._device = open(os.environ["MODEL_SERVER_DEVICE"], "w")  # noqa: SIM115  # kept open

    def execute(self, requests):
        inputs = [triton.get_input_tensor_by_name(each, "X").as_numpy() for each in requests]
        rows = sum(map(len, inputs))
        fcntl.flock(self._device, fcntl.LOCK_EX)
        ends_s = time.monotonic() + self._base_s + self._per_row_s * rows + slow_s()
        responses = [
            triton.InferenceResponse(
                [
                    triton.Tensor("Y", 2 * each),
                    triton.Tensor("BATCH", np.full((len(each), 1), rows, np.int32)),
                ]
            )
            for each in inputs
        ]
        time.sleep(max(0, ends_s - time.monotonic()))
        fcntl.flock(self._device, fcntl.LOCK_UN)
        return responses


def slow_s():
    """So many seconds more, for tests that want it slow."""
    try:
        with open(os.environ["MODEL_SERVER_SLOW"]) as file:
            return float(file.read() or 0)
    except OSError:
        return 0
