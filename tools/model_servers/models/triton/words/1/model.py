"""`UPPER`: each element of `TEXT` in ASCII's upper case; `LENGTH`: its bytes."""

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [self._one(each) for each in requests]

    def _one(self, request):
        text = triton.get_input_tensor_by_name(request, "TEXT").as_numpy()
        upper = np.array([each.upper() for each in text.flat], np.object_).reshape(text.shape)
        length = np.array([len(each) for each in text.flat], np.int64).reshape(text.shape)
        return triton.InferenceResponse(
            [triton.Tensor("UPPER", upper), triton.Tensor("LENGTH", length)]
        )
