"""The part of `ExecutorContract` about what an executor may have besides its three methods.

Each test is skipped for executors without it: memory for inputs (`allocate`), two halves of `execute`
(`submit`, `collect`), request parameters, and the cause `memory`.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from batcher.executor import (
    DTYPES,
    Allocates,
    Array,
    BatchResult,
    ExecutionError,
    ParameterValue,
    Pipelines,
)
from batcher.testing.contract_driver import ContractDriver
from batcher.testing.contract_hooks import ContractHooks

_ODD_VALUES: tuple[ParameterValue, ...] = (True, -1, 2**63 - 1, -0.5, "", "\N{SNOWMAN}", "1" * 4096)
"""Values that a caller may send under any name: the server passes them on as they are."""


class OptionalContract(ContractHooks):
    """Tests of optional methods and declarations."""

    def test_memory_for_inputs_is_as_it_was_asked_for(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """`allocate` returns arrays of the shape and dtype, C-contiguous, writable, each apart."""
        allocates = _allocates(driver)
        most = self._sizes(driver)[-1]
        found: list[Array] = []
        for name, array in _numeric(driver, self.make_inputs(most, rng)).items():
            for _ in range(3):
                shape = (most, *array.shape[1:])
                memory = driver.call(lambda: allocates.allocate(name, shape, array.dtype))  # noqa: B023 - called at once
                assert isinstance(memory, np.ndarray), f"{name}: {type(memory)} is no numpy array"
                assert (memory.shape, memory.dtype) == (shape, array.dtype), name
                flags = memory.flags
                assert flags.c_contiguous, f"{name}: not C-contiguous"
                assert flags.aligned, f"{name}: not aligned"
                assert flags.writeable, f"{name}: read-only"
                shared = any(np.may_share_memory(memory, other) for other in found)
                assert not shared, f"{name}: two arrays share memory"
                found.append(memory)

    def test_batches_in_allocated_memory_are_answered_as_in_other(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """The first rows of allocated memory are executed like any array; batch after batch in the same.

        What is written there when a batch has ended changes nothing: no answer, and no later batch.
        """
        allocates = _allocates(driver)
        sizes = self._sizes(driver)
        memory = driver.allocated(allocates, self.make_inputs(sizes[-1], rng))
        for rows in (sizes[-1], sizes[0], sizes[-1]):
            inputs = self.make_inputs(rows, rng)
            expected = driver.answer(inputs)
            result = driver.run(driver.batch_in(memory, inputs))
            kept = driver.own(result, memory)
            _scribble(memory)
            for name, array in expected.items():
                self._assert_close(kept.outputs[name], array, f"{name}, in allocated memory")
            kept.release()
            for name, array in driver.answer(inputs).items():
                self._assert_close(array, expected[name], f"{name}, afterwards")

    def test_halves_are_answered_as_the_whole(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """`collect(submit(batch))` is `execute(batch)`, and two batches may be between their halves."""
        pipelines = _pipelines(driver)
        sizes = self._sizes(driver)
        rows = (sizes[-1], sizes[0], sizes[-1], sizes[len(sizes) // 2], sizes[-1])
        batches = [self.make_inputs(count, rng) for count in rows]
        expected = [driver.answer(inputs) for inputs in batches]
        results = driver.pipelined(pipelines, [driver.batch(inputs) for inputs in batches])
        for result, answers in zip(results, expected, strict=True):
            assert isinstance(result, BatchResult), result
            for name, array in answers.items():
                self._assert_close(result.outputs[name], array, f"{name}, in two halves")
        for result in results:
            cast("BatchResult", result).release()

    def test_a_half_that_fails_is_the_failure_of_its_batch_alone(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """A batch that fails between two others says why, and these are answered."""
        pipelines, bad = _pipelines(driver), self.bad_inputs()
        if bad is None:
            pytest.skip("the subclass has no bad_inputs")
        inputs = self.make_inputs(self._sizes(driver)[-1], rng)
        expected = driver.answer(inputs)
        batches = [driver.batch(each) for each in (inputs, bad, inputs)]
        first, failed, last = driver.pipelined(pipelines, batches)
        if isinstance(failed, BatchResult):
            assert failed.row_errors, "the inputs are bad, but nothing failed"
            failed.release()
        else:
            assert isinstance(failed, ExecutionError), f"{failed!r} is no ExecutionError"
        for result in (first, last):
            assert isinstance(result, BatchResult), result
            for name, array in expected.items():
                self._assert_close(result.outputs[name], array, f"{name}, beside a failure")
            result.release()

    def test_halves_in_allocated_memory(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """Two batches at once in memory of their own; it may be overwritten when its batch is collected."""
        pipelines, allocates = _pipelines(driver), _allocates(driver)
        rows = self._sizes(driver)[-1]
        memories = [driver.allocated(allocates, self.make_inputs(rows, rng)) for _ in range(2)]
        batches = [self.make_inputs(rows, rng) for _ in range(6)]
        expected = [driver.answer(inputs) for inputs in batches]
        results: list[BatchResult] = []

        def collected(place: int, result: BatchResult | BaseException) -> None:
            assert isinstance(result, BatchResult), result
            results.append(driver.own(result, memories[place % 2]))
            _scribble(memories[place % 2])

        driver.pipelined(
            pipelines,
            [
                lambda place=place, inputs=inputs: driver.batch_in(memories[place % 2], inputs)  # type: ignore[misc] # a default argument
                for place, inputs in enumerate(batches)
            ],
            collected,
        )
        for result, answers in zip(results, expected, strict=True):
            for name, array in answers.items():
                self._assert_close(result.outputs[name], array, f"{name}, in allocated memory")
            result.release()

    def test_parameters_of_any_value_do_no_harm(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """A declared parameter that is absent or valid is answered; any other value is the caller's fault.

        The server passes on what the caller sent: a value of the wrong type or size must end in an
        `ExecutionError` of cause `input`, if it is not answered, and the next batch must succeed.
        """
        assert driver.metadata is not None
        names = driver.metadata.parameters
        if not names:
            pytest.skip("declares no parameters")
        inputs = self.make_inputs(self._sizes(driver)[-1], rng)
        driver.answer(inputs)
        examples = {name: self.example_parameter(name) for name in names}
        valid = {name: value for name, value in examples.items() if value is not None}
        driver.run(driver.batch(inputs, parameters=valid)).release()
        causes: set[str] = set()
        for name in names:
            for value in _ODD_VALUES:
                try:
                    driver.run(driver.batch(inputs, parameters={**valid, name: value})).release()
                except ExecutionError as error:
                    causes.add(error.cause)
                assert causes <= {"input"}, f"parameter {name}: {value!r} fails with another cause"
        driver.answer(inputs)

    def test_a_device_without_memory_says_so(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """The batch fails with the cause `memory`, and the next one succeeds."""
        inputs = self.make_inputs(self._sizes(driver)[-1], rng)
        expected = driver.answer(inputs)
        if not driver.call_plain(lambda: self.lack_memory(driver.executor)):
            pytest.skip("the subclass does not arrange a lack of memory")
        with pytest.raises(ExecutionError) as caught:
            driver.execute(inputs)
        assert caught.value.cause == "memory", f"its cause is {caught.value.cause}"
        for name, array in driver.answer(inputs).items():
            self._assert_close(array, expected[name], f"{name}, after a lack of memory")

    def test_filled_up_batches_are_answered_as_others(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """Where only some sizes can run: copies of the last row behind a batch change no answer."""
        assert driver.metadata is not None
        if driver.executor.capabilities.dynamic_rows and not driver.metadata.batch_sizes:
            pytest.skip("takes batches of any size")
        rows = self._sizes(driver)[-1]
        inputs = self.make_inputs(rows, rng)
        whole = driver.answer(inputs)
        for count in range(1, rows):
            filled = driver.filled(inputs, count)
            answers = driver.answer(filled)
            for name in whole.keys() - self.batch_dependent():
                what = f"{name}, {count} rows filled up to {rows}"
                self._assert_close(answers[name][:count], whole[name][:count], what)


def _allocates(driver: ContractDriver) -> Allocates:
    executor: object = driver.executor
    if not isinstance(executor, Allocates):
        pytest.skip("has no method allocate")
    return executor


def _pipelines(driver: ContractDriver) -> Pipelines:
    executor: object = driver.executor
    if not isinstance(executor, Pipelines):
        pytest.skip("has no methods submit and collect")
    return executor


def _numeric(driver: ContractDriver, inputs: dict[str, Array]) -> dict[str, Array]:
    """The inputs that have rows and are not BYTES."""
    return {
        name: array
        for name, array in inputs.items()
        if name in driver.with_rows and array.dtype != DTYPES["BYTES"]
    }


def _scribble(memory: dict[str, Any]) -> None:
    for array in memory.values():
        array.view(np.uint8)[...] = 0xFF
