"""Triton: a model of its Python backend. `execute` gets the requests of one dynamic batch."""

import numpy as np
import triton_python_backend_utils as pb_utils
from emulated_device import Device


class TritonPythonModel:
    """Its instance."""

    def initialize(self, args):
        """Open the device."""
        del args
        self.device = Device()

    def execute(self, requests):
        """One batch for the device, and an answer for each request."""
        inputs = [pb_utils.get_input_tensor_by_name(each, "X").as_numpy() for each in requests]
        y = self.device.run(np.concatenate(inputs))
        answers, at = [], 0
        for x in inputs:
            rows = y[at : at + len(x)]
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", rows)]))
            at += len(x)
        return answers
