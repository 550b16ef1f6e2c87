"""`Y` = 2 * X after `base + per_row * rows`; `BATCH` is the rows of the batch. One batch at a time."""

import asyncio
import ctypes
import os
import time

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

PR_SET_TIMERSLACK = 29


class Double(MLModel):
    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self._base_s, self._per_row_s = extra["base_s"], extra["per_row_s"]
        self._device = asyncio.Lock()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        rows = len(x)
        if np.isnan(x).any():
            raise ValueError("X has no number in some place")
        async with self._device:
            await asyncio.to_thread(self._execute, rows)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[
                NumpyCodec.encode_output("Y", 2 * x),
                NumpyCodec.encode_output("BATCH", np.full((rows, 1), rows, np.int32)),
            ],
        )

    def _execute(self, rows):
        """Takes the time of a batch; the event loop goes on meanwhile, as with a real device."""
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
        time.sleep(self._base_s + self._per_row_s * rows + slow_s())


def slow_s():
    """So many seconds more, for tests that want it slow."""
    try:
        with open(os.environ["MODEL_SERVER_SLOW"]) as file:
            return float(file.read() or 0)
    except OSError:
        return 0
