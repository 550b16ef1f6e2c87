"""MLServer: a custom runtime. `predict` gets the merged requests of one adaptive batch."""

import asyncio

import numpy as np
from emulated_device import Device
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Doubling(MLModel):
    """Its model."""

    async def load(self):
        """Open the device."""
        self.device = Device()
        return True

    async def predict(self, payload):
        """The device's wait is in a thread, so that the loop goes on."""
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        y = await asyncio.to_thread(self.device.run, x)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("Y", y)])
