"""Runs batches on a compiled model: one inference request for each batch that is under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from batcher.executor import Array, Batch, BatchResult, ExecutionError
from batcher_openvino.messages import cause_of, one_line
from batcher_openvino.signature import Signature


@dataclass(frozen=True, slots=True)
class Running:
    """A batch that was started."""

    requests: Requests
    request: Any
    batch: Batch
    given: list[Array]
    """The arrays on which it computes: OpenVINO keeps their address, and not them."""


class Requests:
    """The inference requests of one compiled model.

    A batch may be started on one thread and waited for on another, while the next is started.
    """

    def __init__(self, compiled: Any, signature: Signature) -> None:
        self._compiled = compiled
        self._signature = signature
        self._idle: deque[Any] = deque()

    def run(self, batch: Batch) -> BatchResult:
        """Execute a batch. Raises `ExecutionError`."""
        request = self._take()
        try:
            given = self._give(request, batch.inputs)
            request.infer()
            result = self._result(request, batch)
            given.clear()  # until here: OpenVINO keeps the address of its memory, and not the arrays
        except RuntimeError as error:
            raise _failure(error) from error
        else:
            return result
        finally:
            self._idle.append(request)

    def start(self, batch: Batch) -> Running:
        """Start a batch. Raises `ExecutionError`."""
        request = self._take()
        try:
            given = self._give(request, batch.inputs)
            request.start_async()
        except BaseException as error:
            self._idle.append(request)
            if isinstance(error, RuntimeError):
                raise _failure(error) from error
            raise
        return Running(self, request, batch, given)

    def finish(self, running: Running) -> BatchResult:
        """Wait for a batch. Raises `ExecutionError`."""
        request = running.request
        try:
            request.wait()
            return self._result(request, running.batch)
        except RuntimeError as error:
            raise _failure(error) from error
        finally:
            self._idle.append(request)

    def _take(self) -> Any:
        return self._idle.pop() if self._idle else self._compiled.create_infer_request()

    def _give(self, request: Any, inputs: Mapping[str, Array]) -> list[Array]:
        """Point the request at the inputs. The arrays that it returns must live until it is done."""
        given = []
        for place, spec in enumerate(self._signature.inputs):
            array = inputs[spec.name]
            if not array.flags.writeable:
                array = array.copy()  # OpenVINO shares no memory that cannot be written to
            if spec.datatype == "BF16":
                tensor = ov.Tensor(array, ov.Shape(array.shape), ov.Type.bf16)
            else:
                tensor = ov.Tensor(array, shared_memory=True)
            request.set_input_tensor(place, tensor)
            given.append(array)
        return given

    def _result(self, request: Any, batch: Batch) -> BatchResult:
        """The outputs, copied: the request's memory is used for the next batch."""
        outputs = {}
        for place, spec in enumerate(self._signature.outputs):
            if batch.outputs is None or spec.name in batch.outputs:
                array = np.array(request.get_output_tensor(place).data)
                outputs[spec.name] = array.view(np.uint16) if spec.datatype == "BF16" else array
        return BatchResult(outputs)


def _failure(error: RuntimeError) -> ExecutionError:
    return ExecutionError(one_line(error), cause=cause_of(error))
