"""An executor whose answers, failures and delays a test scripts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from batcher.executor import (
    DTYPES,
    Array,
    Batch,
    BatchResult,
    Capabilities,
    LoadContext,
    ModelMetadata,
    TensorSpec,
)

Answer: TypeAlias = Callable[[Batch], BatchResult]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a `FakeExecutor`: which method, on which thread, with what."""

    method: str
    thread: int
    batch: Batch | None = None


class Hang:
    """An `execute` that does not return until it is released."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._released = threading.Event()

    def wait_entered(self, timeout_s: float = 10.0) -> None:
        """Block until the executor is inside the call. Raises TimeoutError."""
        if not self._entered.wait(timeout_s):
            raise TimeoutError("the executor was not called")

    def release(self) -> None:
        """Let the call return."""
        self._released.set()

    def block(self, timeout_s: float = 60.0) -> None:
        """Called by the executor: report that it is inside, and wait for the release."""
        self._entered.set()
        if not self._released.wait(timeout_s):
            raise TimeoutError("the test never released the executor")


class FakeExecutor:
    """`X` FP32 [-1, columns] -> `Y` = 2 * X, unless the next batches are scripted.

    Each `..._next` method scripts one batch, in the order they were called; unscripted batches are
    answered. Safe to script from another thread than the instance's own.
    """

    capabilities = Capabilities(dynamic_axes=True)

    def __init__(
        self,
        *,
        columns: int = 2,
        metadata: ModelMetadata | None = None,
        load_error: BaseException | None = None,
        answer: Answer | None = None,
    ) -> None:
        self.metadata = metadata or ModelMetadata(
            platform="fake",
            inputs=(TensorSpec("X", "FP32", (-1, columns)),),
            outputs=(TensorSpec("Y", "FP32", (-1, columns)),),
        )
        self.load_error = load_error
        """What `load` raises; None for a model that loads."""
        self.context: LoadContext | None = None
        """What `load` was last called with."""
        self.calls: list[Call] = []
        """Every call so far, oldest first; a call is entered before it returns."""
        self.released = 0
        """How many results have been released."""
        self._answer: Answer = answer or double
        self._script: deque[Answer] = deque()

    @property
    def batch_sizes(self) -> list[int]:
        """The rows of each batch so far, oldest first."""
        return [call.batch.rows for call in self.calls if call.batch is not None]

    def fail_next(self, error: BaseException) -> None:
        """The next unscripted batch raises `error`."""

        def fail(_: Batch) -> BatchResult:
            raise error

        self._script.append(fail)

    def fail_rows_next(self, row_errors: Mapping[int, str]) -> None:
        """The next unscripted batch is answered, but these rows of it failed."""
        self._script.append(
            lambda batch: BatchResult(self._answer(batch).outputs, row_errors=row_errors)
        )

    def hang_next(self) -> Hang:
        """The next unscripted batch hangs until the returned `Hang` is released, then answers."""
        hang = Hang()

        def wait(batch: Batch) -> BatchResult:
            hang.block()
            return self._answer(batch)

        self._script.append(wait)
        return hang

    def nan_next(self) -> None:
        """The next unscripted batch is answered with NaN in every floating-point value."""
        self._script.append(lambda batch: BatchResult(_with_nan(self._answer(batch).outputs)))

    def answer_next(self, answer: Answer) -> None:
        """The next unscripted batch is answered by `answer(batch)`."""
        self._script.append(answer)

    def default(self, answer: Answer) -> None:
        """Unscripted batches are answered by `answer(batch)` from now on."""
        self._answer = answer

    def load(self, context: LoadContext) -> ModelMetadata:
        """Keep the context; raise `load_error` if there is one."""
        self._note("load")
        self.context = context
        if self.load_error is not None:
            raise self.load_error
        return self.metadata

    def execute(self, batch: Batch) -> BatchResult:
        """Do what the script says next, or answer."""
        self._note("execute", batch)
        answer = self._script.popleft() if self._script else self._answer
        result = answer(batch)

        def release() -> None:
            self.released += 1
            result.release()

        return BatchResult(result.outputs, result.row_errors, release)

    def close(self) -> None:
        """Only recorded in `calls`."""
        self._note("close")

    def _note(self, method: str, batch: Batch | None = None) -> None:
        self.calls.append(Call(method, threading.get_ident(), batch))


def raise_on(value: float, answer: Answer | None = None) -> Answer:
    """An answer that raises when some value of `X` is `value`: such a row makes its batch fail."""

    def failing(batch: Batch) -> BatchResult:
        if (batch.inputs["X"] == value).any():
            raise ValueError("a value that fails")
        return (answer or double)(batch)

    return failing


def nan_on(value: float, answer: Answer | None = None) -> Answer:
    """An answer with NaN in `Y` for every row of `X` that holds `value`."""

    def with_nan(batch: Batch) -> BatchResult:
        result = (answer or double)(batch)
        outputs = {name: array.copy() for name, array in result.outputs.items()}
        outputs["Y"][(batch.inputs["X"] == value).any(axis=1)] = np.nan
        return BatchResult(outputs, result.row_errors, result.release)

    return with_nan


def double(batch: Batch) -> BatchResult:
    """`Y = 2 * X`, in X's dtype."""
    inputs = batch.inputs["X"]
    return BatchResult({"Y": np.add(inputs, inputs)})


def _with_nan(outputs: Mapping[str, Array]) -> dict[str, Array]:
    floats = (DTYPES["FP16"], DTYPES["FP32"], DTYPES["FP64"])
    return {
        name: np.full_like(array, np.nan) if array.dtype in floats else array
        for name, array in outputs.items()
    }
