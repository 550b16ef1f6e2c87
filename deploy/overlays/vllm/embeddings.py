"""Embeddings by vLLM: a batch of texts is one call of its OpenAI-compatible server."""

import http.client
import json
from typing import Annotated

import numpy as np

from batcher.executor import BackendUnavailable, ExecutionError
from batcher.executors.python import Rows

TIMEOUT_S = 25
"""Less than `execute_timeout`: what hangs is a failed batch before it is a lost instance."""


class Embeddings:
    """The model that vLLM serves at `address` under the name `model`."""

    def __init__(self, address: str, model: str) -> None:
        self.address = address
        self.model = model
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)

    def load(self) -> None:
        """Raise `BackendUnavailable` until vLLM answers that it is up."""
        try:
            status, _ = self._ask("GET", "/health", None)
        except (OSError, http.client.HTTPException) as error:
            raise BackendUnavailable(f"vLLM at {self.address}: {error}") from None
        if status != 200:
            raise BackendUnavailable(f"vLLM at {self.address}: /health answers {status}")

    def __call__(
        self, text: list[str]
    ) -> Annotated[np.ndarray, Rows("FP32", -1, name="embedding")]:
        """The embedding of each text: FP32 [rows, dimensions]."""
        question = json.dumps({"model": self.model, "input": text, "encoding_format": "float"})
        try:
            status, body = self._ask("POST", "/v1/embeddings", question)
        except (OSError, http.client.HTTPException) as error:
            raise ExecutionError(f"vLLM: {error}", cause="unavailable") from None
        if status == 200:
            found = sorted(json.loads(body)["data"], key=lambda each: each["index"])
            return np.array([each["embedding"] for each in found], np.float32)
        message = f"vLLM: {status} {body[:200].decode(errors='replace')}"
        if status in {400, 413, 422}:
            # Parts of the batch are tried, so that the text which is too long fails alone.
            raise ExecutionError(message, cause="input")
        if status in {429, 503}:
            raise ExecutionError(message, cause="overloaded")
        raise ExecutionError(message)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        for attempt in (1, 2):
            fresh = self._connection.sock is None
            try:
                self._connection.request(
                    method, path, body, {"Content-Type": "application/json"} if body else {}
                )
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # A connection that was kept may have been closed meanwhile: embeddings may be computed twice.
                if fresh or attempt == 2 or isinstance(error, TimeoutError):
                    raise
        raise AssertionError
