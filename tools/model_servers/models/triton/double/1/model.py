"""`Y` = 2 * X after `base + per_row * rows`; `BATCH` is the rows of the batch."""

import ctypes
import os
import time

import numpy as np
import triton_python_backend_utils as triton

PR_SET_TIMERSLACK = 29


class TritonPythonModel:
    def initialize(self, args):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
        self._base_s, self._per_row_s = map(float, os.environ["MODEL_SERVER_TIMES"].split())

    def execute(self, requests):
        begun_s = time.monotonic()
        inputs = [triton.get_input_tensor_by_name(each, "X").as_numpy() for each in requests]
        rows = sum(map(len, inputs))
        responses = [
            triton.InferenceResponse(
                [
                    triton.Tensor("Y", 2 * each),
                    triton.Tensor("BATCH", np.full((len(each), 1), rows, np.int32)),
                ]
            )
            for each in inputs
        ]
        ends_s = begun_s + self._base_s + self._per_row_s * rows + slow_s()
        time.sleep(max(0, ends_s - time.monotonic()))
        return responses


def slow_s():
    """So many seconds more, for tests that want it slow."""
    try:
        with open(os.environ["MODEL_SERVER_SLOW"]) as file:
            return float(file.read() or 0)
    except OSError:
        return 0
