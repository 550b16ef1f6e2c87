"""The test suite that every executor passes: subclass `ExecutorContract` in the plugin's tests.

A subclass says how to make the executor, which options make it load a small model, and what inputs
that model takes; pytest then collects every `test_...` method under the name of the subclass. Tests
that an executor need not pass are skipped by what it declares and which methods it has.

As in the server, every call to one executor is made on one thread, which is not the main one; an
`AsyncExecutor` runs on an event loop on that thread. Input arrays are read-only, because in the server
they may be views of a message.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batcher.clock import SECOND
from batcher.errors import ModelLoadError
from batcher.executor import (
    DTYPES,
    Capabilities,
    ExecutionError,
    LoadContext,
    ReportsHealth,
    Watches,
    nothing_to_release,
)
from batcher.runtime.interface.declared import check_executor
from batcher.runtime.interface.forwarded import wrong_names
from batcher.testing.contract_driver import ContractDriver, check_array
from batcher.testing.contract_optional import OptionalContract

_FAR_NS = 60 * SECOND
"""A deadline that no batch misses, from now on."""

_HEALTHY_S = 1.0
"""How long `healthy` may take: the default of `models[].health.timeout`."""


class ExecutorContract(OptionalContract):
    """Subclass this, name the subclass `Test...`, and override what its docstring marks as yours."""

    def test_class_is_an_executor(self) -> None:
        """The three methods are there, and the capabilities are known before anything is loaded."""
        kind = type(self.make_executor())
        assert isinstance(kind.capabilities, Capabilities)
        for method in ("load", "execute", "close"):
            assert callable(getattr(kind, method, None)), f"no method {method}"
        check_executor(self.make_executor(), "contract", "thread", 1)

    def test_metadata(self, driver: ContractDriver) -> None:
        """Names are unique, datatypes known, shapes start with the row axis."""
        metadata = driver.metadata
        assert metadata is not None
        assert metadata.platform
        assert metadata.inputs
        assert metadata.outputs
        for specs in (metadata.inputs, metadata.outputs):
            names = [spec.name for spec in specs]
            assert all(names), "a name is empty"
            assert len(set(names)) == len(names), f"names are not unique: {names}"
            for spec in specs:
                assert spec.datatype in DTYPES, f"{spec.name}: unknown datatype {spec.datatype}"
                rows = not spec.batched or spec.shape[:1] == (-1,)
                assert rows, f"{spec.name}: {spec.shape} must start with -1"
                assert all(length == -1 or length > 0 for length in spec.shape), spec
        for parameter in metadata.parameters:
            assert isinstance(parameter, str), f"parameter {parameter!r} must be a name"
            assert parameter, "a parameter's name is empty"
        assert len(set(metadata.parameters)) == len(metadata.parameters), "a parameter twice"
        problems = list(wrong_names(metadata.metadata))
        assert not problems, problems
        assert metadata.max_batch_size is None or metadata.max_batch_size >= 0
        assert all(size > 0 for size in metadata.preferred_batch_sizes)
        for key, value in metadata.properties.items():
            assert isinstance(key, str)
            assert isinstance(value, str), f"property {key} must be text"
        variable = [s.name for s in metadata.inputs if -1 in s.inner]
        assert not variable or driver.executor.capabilities.dynamic_axes, (
            f"{variable} have variable axes, but the capabilities say dynamic_axes=False"
        )

    def test_example_inputs_match_the_metadata(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """The inputs of `make_inputs` are what the metadata says that the model takes."""
        assert driver.metadata is not None
        rows = self._sizes(driver)[-1]
        inputs = self.make_inputs(rows, rng)
        specs = {spec.name: spec for spec in driver.metadata.inputs}
        required = {spec.name for spec in specs.values() if not spec.optional}
        assert required <= set(inputs) <= set(specs)
        for name, array in inputs.items():
            check_array(array, specs[name], rows)

    def test_outputs_match_the_metadata(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """For every batch size, each output has its dtype, its shape and one row for each row."""
        assert driver.metadata is not None
        for rows in self._sizes(driver):
            outputs = driver.answer(self.make_inputs(rows, rng))
            assert set(outputs) == {spec.name for spec in driver.metadata.outputs}
            for spec in driver.metadata.outputs:
                check_array(outputs[spec.name], spec, rows)

    def test_rows_keep_their_order_and_do_not_affect_each_other(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """The answer of a row is the same alone, in a batch, and in the same batch in reverse order.

        Outputs that depend on the batch on purpose are named in `batch_dependent`.
        """
        if not driver.with_rows:
            pytest.skip("no input has rows")
        sizes = self._sizes(driver)
        rows = sizes[-1]
        inputs = self.make_inputs(rows, rng)
        whole = driver.answer(inputs)
        reversed_ = driver.answer(driver.some_rows(inputs, slice(None, None, -1)))
        for name in whole.keys() - self.batch_dependent():
            self._assert_close(
                reversed_[name][::-1], whole[name], f"{name}, batch in reverse order"
            )
        if sizes[0] != 1:
            return
        for row in range(rows):
            alone = driver.answer(driver.some_rows(inputs, slice(row, row + 1)))
            for name in whole.keys() - self.batch_dependent():
                same = whole[name][row : row + 1]
                self._assert_close(alone[name], same, f"{name}, row {row} alone")

    def test_only_requested_outputs_are_needed(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """A batch that asks for one output gets it, with the value it has among all."""
        assert driver.metadata is not None
        inputs = self.make_inputs(self._sizes(driver)[-1], rng)
        everything = driver.answer(inputs)
        for spec in driver.metadata.outputs:
            result = driver.execute(inputs, frozenset({spec.name}))
            assert spec.name in result.outputs
            self._assert_close(result.outputs[spec.name], everything[spec.name], spec.name)
            result.release()

    def test_results_stay_valid_until_they_are_released(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """A later batch does not write into a result that has not been released."""
        rows = self._sizes(driver)[-1]
        first = driver.execute(self.make_inputs(rows, rng))
        before = {name: array.copy() for name, array in first.outputs.items()}
        second = driver.execute(self.make_inputs(rows, rng))
        for name, array in first.outputs.items():
            np.testing.assert_array_equal(array, before[name])
        first.release()
        second.release()
        for _ in range(3):
            driver.answer(self.make_inputs(rows, rng))
        if first.release is nothing_to_release:
            for name, array in first.outputs.items():
                message = f"{name} was overwritten by a later batch, but the result has no release"
                np.testing.assert_array_equal(array, before[name], err_msg=message)

    def test_two_instances_are_independent(
        self, context: LoadContext, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """A second instance gives the same answers, and closing it does not affect the first."""
        inputs = self.make_inputs(self._sizes(driver)[-1], rng)
        first = driver.answer(inputs)
        with self._loaded(context) as other:
            second = other.answer(inputs)
        again = driver.answer(inputs)
        for name, array in first.items():
            self._assert_close(second[name], array, name)
            self._assert_close(again[name], array, name)

    def test_loads_again_after_it_was_closed(
        self, context: LoadContext, rng: np.random.Generator
    ) -> None:
        """Executors release what they hold when they are closed: loading works again and again."""
        threads = threading.active_count()
        for _ in range(3):
            with self._loaded(context) as driver:
                driver.answer(self.make_inputs(self._sizes(driver)[-1], rng))
        assert threading.active_count() <= threads, "a Python thread outlived its executor"

    def test_bad_options_are_named(
        self, bad_options: Mapping[str, Mapping[str, Any]], base_dir: Path
    ) -> None:
        """Each wrong option stops the load with a `ModelLoadError` on one line that names it."""
        assert bad_options
        for name, options in bad_options.items():
            driver = ContractDriver(self.make_executor(), self._context(options, base_dir))
            try:
                with pytest.raises(ModelLoadError) as caught:
                    driver.load()
            finally:
                driver.stop()
            message = str(caught.value)
            assert name in message, f"option {name} is not named in: {message}"
            assert "\n" not in message, f"the message must be one line: {message}"

    def test_a_batch_that_fails_says_why_and_the_next_one_succeeds(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """Bad values give an `ExecutionError` or row errors on one line; the next batch succeeds."""
        bad = self.bad_inputs()
        if bad is None:
            pytest.skip("the subclass has no bad_inputs")
        messages = []
        try:
            result = driver.execute(bad)
        except ExecutionError as error:
            messages.append(str(error))
        else:
            messages.extend(result.row_errors.values())
            result.release()
        assert messages, "the inputs are bad, but nothing failed"
        assert all(message and "\n" not in message for message in messages), messages
        driver.answer(self.make_inputs(self._sizes(driver)[-1], rng))

    def test_a_loaded_executor_is_healthy(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """An executor with `healthy` returns None, before a batch and after it, within a second."""
        if not isinstance(driver.executor, ReportsHealth):
            pytest.skip("has no method healthy")
        for _ in range(2):
            began = time.monotonic()
            said = driver.call(driver.executor.healthy)
            took_s = time.monotonic() - began
            assert said is None, f"healthy() of a loaded executor says {said!r}"
            assert took_s < _HEALTHY_S, (
                f"healthy() took {took_s:.2f} s, and batches wait for it; allowed: {_HEALTHY_S:g} s"
            )
            driver.answer(self.make_inputs(self._sizes(driver)[-1], rng))

    def test_batches_in_flight_together(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """`capabilities.max_in_flight` batches at once are answered as each alone."""
        count = driver.executor.capabilities.max_in_flight
        if count == 1:
            pytest.skip("takes one batch at a time")
        batches = [self.make_inputs(self._sizes(driver)[-1], rng) for _ in range(count)]
        for inputs, result in zip(batches, driver.answer_together(batches), strict=True):
            together = {name: array.copy() for name, array in result.outputs.items()}
            result.release()
            for name, array in driver.answer(inputs).items():
                self._assert_close(together[name], array, name)

    def test_a_deadline_and_metadata_change_no_answer(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """A batch with a deadline, and with all metadata that is sent on, is answered as without."""
        assert driver.metadata is not None
        inputs = self.make_inputs(self._sizes(driver)[-1], rng)
        expected = driver.answer(inputs)
        metadata = {name: self.example_metadata(name) for name in driver.metadata.metadata}
        deadline_ns = time.monotonic_ns() + _FAR_NS
        result = driver.run(driver.batch(inputs, metadata=metadata, deadline_ns=deadline_ns))
        for name, array in expected.items():
            self._assert_close(result.outputs[name], array, name)
        result.release()

    def test_a_cancelled_batch_ends_and_the_next_one_succeeds(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """A coroutine that is cancelled ends within a second; the executor is fit for another call."""
        if not driver.is_async:
            pytest.skip("a thread cannot be cancelled")
        inputs = self.make_inputs(self._sizes(driver)[-1], rng)
        assert driver.cancelled(driver.batch(inputs)), "execute() goes on although it was cancelled"
        driver.answer(inputs)

    def test_a_loaded_executor_watches_its_backend(
        self, driver: ContractDriver, rng: np.random.Generator
    ) -> None:
        """`watch` of a loaded executor reports nothing but health, goes on, and can be cancelled."""
        executor = driver.executor
        if not driver.is_async or not isinstance(executor, Watches):
            pytest.skip("has no method watch")
        assert inspect.iscoroutinefunction(executor.watch), "watch() must be a coroutine function"
        batch = driver.batch(self.make_inputs(self._sizes(driver)[-1], rng))
        reports, ended = driver.watched(executor, batch)
        assert ended, (
            "watch() returned although nothing changed, or goes on although it was cancelled"
        )
        assert all(report == "" for report in reports), f"a loaded executor reports {reports}"
