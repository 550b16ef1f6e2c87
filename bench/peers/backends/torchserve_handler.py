"""TorchServe: a custom service. `handle` gets the requests of one batch."""

import numpy as np
from emulated_device import Device


class Handler:
    """Its service: raw FP32 in, raw FP32 out."""

    def initialize(self, context):
        """Open the device."""
        del context
        self.device = Device()

    def handle(self, data, context):
        """One batch for the device, and the bytes of an answer for each request."""
        del context
        x = np.stack([np.frombuffer(each["x"], np.float32) for each in data])
        return [row.tobytes() for row in self.device.run(x)]
