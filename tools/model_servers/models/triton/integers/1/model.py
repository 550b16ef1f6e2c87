"""`TOTAL`: the sum of each row of `TOKENS`. A negative token is an error of the whole request."""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [self._one(each) for each in requests]

    def _one(self, request):
        tokens = triton.get_input_tensor_by_name(request, "TOKENS").as_numpy()
        if (tokens < 0).any():
            return triton.InferenceResponse(error=triton.TritonError("a token is negative"))
        return triton.InferenceResponse([triton.Tensor("TOTAL", tokens.sum(axis=1, keepdims=True))])
