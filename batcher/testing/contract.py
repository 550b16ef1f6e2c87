"""The suite that every executor passes: subclass `ExecutorContract` in the plugin's tests.

A subclass says how to make the executor, which options make it load a small model, and what inputs
that model takes; every `test_...` method is then collected under the subclass's name. What an
executor declares in its `capabilities` decides what is asked of it, never what it is called.

As in production, every call to one executor is made on one thread, which is not the main one; an
`AsyncExecutor` is driven by an event loop on that thread. Input arrays are read-only, because in
production they may be views of a message.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from batcher.errors import ModelLoadError
from batcher.executor import (
    DTYPES,
    Array,
    AsyncExecutor,
    Batch,
    BatchResult,
    Capabilities,
    ExecutionError,
    Executor,
    LoadContext,
    ModelMetadata,
    ReportsHealth,
    nothing_to_release,
)
from batcher.plugins import is_async
from batcher.runtime.interface.row_axis import with_row_axes
from batcher.tensors import TensorSpec

T = TypeVar("T")

_UNKNOWN_OPTION = "no_such_option"

_HEALTHY_S = 1.0
"""How long `healthy` may take: the default of `models[].health.timeout`."""


class Driver:
    """One executor on its own thread, its calls made plain whether it is blocking or not."""

    def __init__(self, executor: Executor | AsyncExecutor, context: LoadContext) -> None:
        self.executor = executor
        self.context = context
        self.metadata: ModelMetadata | None = None
        self._async = is_async(type(executor))
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="executor-contract")

    def call(self, function: Callable[[], T | Coroutine[Any, Any, T]]) -> T:
        """Run on the executor's thread, to the end."""

        def run() -> T:
            if self._async:
                return self._runner.run(cast("Coroutine[Any, Any, T]", function()))
            return cast("T", function())

        return self._thread.submit(run).result()

    def load(self) -> ModelMetadata:
        """Load with the context: what the executor says of its model, as it would be served."""
        told = self.call(lambda: self.executor.load(self.context))
        self.metadata = told
        self.metadata = with_row_axes(told, self.context)
        return self.metadata

    @property
    def with_rows(self) -> frozenset[str]:
        """The inputs that have a row axis."""
        assert self.metadata is not None
        return frozenset(spec.name for spec in self.metadata.inputs if spec.batched)

    def rows(self, inputs: Mapping[str, Array]) -> int:
        """How many rows these inputs have; 1 where none of them has any."""
        return next((len(array) for name, array in inputs.items() if name in self.with_rows), 1)

    def some_rows(self, inputs: Mapping[str, Array], which: slice) -> dict[str, Array]:
        """These rows of every input that has rows; the others as they are."""
        return {
            name: array[which].copy() if name in self.with_rows else array
            for name, array in inputs.items()
        }

    def execute(
        self, inputs: Mapping[str, Array], outputs: frozenset[str] | None = None
    ) -> BatchResult:
        """Run one batch of these inputs."""
        arrays = {name: _read_only(array) for name, array in inputs.items()}
        batch = Batch(arrays, self.rows(inputs), outputs=outputs)
        return self.call(lambda: self.executor.execute(batch))

    def answer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Copies of all outputs for these inputs; the result is released."""
        result = self.execute(inputs)
        assert not result.row_errors, f"rows failed: {dict(result.row_errors)}"
        copies = {name: array.copy() for name, array in result.outputs.items()}
        result.release()
        return copies

    def answer_together(self, batches: list[dict[str, Array]]) -> list[BatchResult]:
        """Results of batches that an `AsyncExecutor` has in flight at once."""
        executor = cast("AsyncExecutor", self.executor)

        async def together() -> list[BatchResult]:
            calls = [executor.execute(Batch(each, self.rows(each))) for each in batches]
            return await asyncio.gather(*calls)

        return self.call(together)

    def stop(self) -> None:
        """Close the executor, if it loaded, and end the thread."""
        if self.metadata is not None:
            self.metadata = None
            self.call(self.executor.close)
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()


class ExecutorContract:
    """Subclass this, name the subclass `Test...`, and override what is marked as yours."""

    max_batch_size = 8
    """Yours: the largest batch that is tried; at least 2 unless the model takes one row only, and 0
    where it has no batch axis."""
    batched: Mapping[str, bool] = MappingProxyType({})
    """Yours, if there are any: input -> what the configuration would say of it under `inputs`."""
    tolerance = 1e-5
    """Yours: how far (absolute and relative) a row's floating-point answer may be from its answer
    in another batch."""

    def make_executor(self) -> Executor | AsyncExecutor:
        """Yours: a new executor that has not been loaded."""
        raise NotImplementedError

    def make_inputs(self, rows: int, rng: np.random.Generator) -> dict[str, Array]:
        """Yours: one valid batch of `rows` rows that differ from one another, one array an input.

        An input that has no rows is the same whatever `rows` is.
        """
        raise NotImplementedError

    def bad_inputs(self) -> dict[str, Array] | None:
        """Yours, if there are any: inputs that fit the metadata but cannot be executed.

        An index out of range, for example.
        """
        return None

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Yours: the options that load the model, as YAML would give them."""
        raise NotImplementedError

    @pytest.fixture
    def bad_options(self, options: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """Yours to extend: the name of an option -> options that are wrong in that one."""
        return {_UNKNOWN_OPTION: {**options, _UNKNOWN_OPTION: 1}}

    @pytest.fixture
    def base_dir(self, tmp_path: Path) -> Path:
        """Where relative paths in the options start."""
        return tmp_path

    @pytest.fixture
    def context(self, options: Mapping[str, Any], base_dir: Path) -> LoadContext:
        """What the executor is loaded with."""
        return self._context(options, base_dir)

    @pytest.fixture
    def driver(self, context: LoadContext) -> Iterator[Driver]:
        """A loaded executor on its own thread, closed at the end."""
        with self._loaded(context) as driver:
            yield driver

    @pytest.fixture
    def rng(self) -> np.random.Generator:
        """A seeded source for the inputs."""
        return np.random.default_rng(1)

    def test_class_is_an_executor(self) -> None:
        """The three methods are there, and the capabilities are known before anything is loaded."""
        kind = type(self.make_executor())
        assert isinstance(kind.capabilities, Capabilities)
        for method in ("load", "execute", "close"):
            assert callable(getattr(kind, method, None)), f"no method {method}"
        assert kind.capabilities.max_in_flight == 1 or is_async(kind), (
            "only an AsyncExecutor can have more than one batch in flight"
        )

    def test_metadata(self, driver: Driver) -> None:
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
        for key, value in metadata.properties.items():
            assert isinstance(key, str)
            assert isinstance(value, str), f"property {key} must be text"
        variable = [s.name for s in metadata.inputs if -1 in s.inner]
        assert not variable or driver.executor.capabilities.dynamic_axes, (
            f"{variable} have variable axes, but the capabilities say dynamic_axes=False"
        )

    def test_example_inputs_match_the_metadata(
        self, driver: Driver, rng: np.random.Generator
    ) -> None:
        """The subclass's own inputs are what the model says that it takes."""
        assert driver.metadata is not None
        rows = self._sizes(driver)[-1]
        inputs = self.make_inputs(rows, rng)
        specs = {spec.name: spec for spec in driver.metadata.inputs}
        required = {spec.name for spec in specs.values() if not spec.optional}
        assert required <= set(inputs) <= set(specs)
        for name, array in inputs.items():
            _check_array(array, specs[name], rows)

    def test_outputs_match_the_metadata(self, driver: Driver, rng: np.random.Generator) -> None:
        """For every batch size, each output has its dtype, its shape and one row for each row."""
        assert driver.metadata is not None
        for rows in self._sizes(driver):
            outputs = driver.answer(self.make_inputs(rows, rng))
            assert set(outputs) == {spec.name for spec in driver.metadata.outputs}
            for spec in driver.metadata.outputs:
                _check_array(outputs[spec.name], spec, rows)

    def test_rows_keep_their_order_and_do_not_touch_each_other(
        self, driver: Driver, rng: np.random.Generator
    ) -> None:
        """A row's answer is the same alone, in a batch, and in the same batch turned around.

        Outputs that depend on the batch on purpose are named in `batch_dependent`.
        """
        if not driver.with_rows:
            pytest.skip("nothing has rows")
        sizes = self._sizes(driver)
        rows = sizes[-1]
        inputs = self.make_inputs(rows, rng)
        whole = driver.answer(inputs)
        turned = driver.answer(driver.some_rows(inputs, slice(None, None, -1)))
        for name in whole.keys() - self.batch_dependent():
            self._assert_close(turned[name][::-1], whole[name], f"{name}, batch turned around")
        if sizes[0] != 1:
            return
        for row in range(rows):
            alone = driver.answer(driver.some_rows(inputs, slice(row, row + 1)))
            for name in whole.keys() - self.batch_dependent():
                self._assert_close(alone[name][0], whole[name][row], f"{name}, row {row} alone")

    def batch_dependent(self) -> set[str]:
        """Yours: outputs whose value says something about the batch, such as its size."""
        return set()

    def test_only_requested_outputs_are_needed(
        self, driver: Driver, rng: np.random.Generator
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

    def test_results_stand_until_they_are_released(
        self, driver: Driver, rng: np.random.Generator
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
                message = f"{name} was used again, and the result has no release"
                np.testing.assert_array_equal(array, before[name], err_msg=message)

    def test_two_instances_do_not_disturb_each_other(
        self, context: LoadContext, driver: Driver, rng: np.random.Generator
    ) -> None:
        """A second instance gives the same answers, and goes without harm to the first."""
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
        """What one executor held is free for the next one, time and again."""
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
            driver = Driver(self.make_executor(), self._context(options, base_dir))
            try:
                with pytest.raises(ModelLoadError) as caught:
                    driver.load()
            finally:
                driver.stop()
            message = str(caught.value)
            assert name in message, f"option {name} is not named in: {message}"
            assert "\n" not in message, f"one line, please: {message}"

    def test_a_batch_that_fails_says_why_and_harms_no_other(
        self, driver: Driver, rng: np.random.Generator
    ) -> None:
        """Bad values give an `ExecutionError` or row errors on one line; the next batch is fine."""
        bad = self.bad_inputs()
        if bad is None:
            pytest.skip("no inputs are bad")
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

    def test_a_loaded_executor_is_well(self, driver: Driver, rng: np.random.Generator) -> None:
        """One that tells its health says that it is well, before a batch and after it, quickly."""
        if not isinstance(driver.executor, ReportsHealth):
            pytest.skip("tells nothing of its health")
        for _ in range(2):
            began = time.monotonic()
            said = driver.call(driver.executor.healthy)
            took_s = time.monotonic() - began
            assert said is None, f"healthy() of a loaded executor says {said!r}"
            assert took_s < _HEALTHY_S, f"healthy() took {took_s:.2f} s; batches wait for it"
            driver.answer(self.make_inputs(self._sizes(driver)[-1], rng))

    def test_batches_in_flight_together(self, driver: Driver, rng: np.random.Generator) -> None:
        """As many batches as it says it can take at once are answered as they are alone."""
        count = driver.executor.capabilities.max_in_flight
        if count == 1:
            pytest.skip("takes one batch at a time")
        batches = [self.make_inputs(self._sizes(driver)[-1], rng) for _ in range(count)]
        for inputs, result in zip(batches, driver.answer_together(batches), strict=True):
            together = {name: array.copy() for name, array in result.outputs.items()}
            result.release()
            for name, array in driver.answer(inputs).items():
                self._assert_close(together[name], array, name)

    def _context(self, options: Mapping[str, Any], base_dir: Path) -> LoadContext:
        most = self.max_batch_size
        return LoadContext("contract", "1", 0, "cpu", most, options, base_dir, self.batched)

    @contextmanager
    def _loaded(self, context: LoadContext) -> Iterator[Driver]:
        with ExitStack() as stack:
            driver = Driver(self.make_executor(), context)
            stack.callback(driver.stop)
            driver.load()
            yield driver

    def _sizes(self, driver: Driver) -> range:
        """Every batch size that the executor must take."""
        most = max(1, self.max_batch_size)
        return range(1 if driver.executor.capabilities.dynamic_rows else most, most + 1)

    def _assert_close(self, got: Array, expected: Array, what: str) -> None:
        assert got.shape == expected.shape, what
        if got.dtype.kind == "f":
            np.testing.assert_allclose(
                got, expected, rtol=self.tolerance, atol=self.tolerance, err_msg=what
            )
        else:
            np.testing.assert_array_equal(got, expected, err_msg=what)


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _check_array(array: Array, spec: TensorSpec, rows: int) -> None:
    name, shape = spec.name, spec.shape
    assert isinstance(array, np.ndarray), f"{name} must be a numpy array"
    assert array.dtype == DTYPES[spec.datatype], f"{name}: {array.dtype} is not {spec.datatype}"
    assert array.ndim == len(shape), f"{name}: shape {array.shape} does not fit {shape}"
    if spec.batched:
        assert len(array) == rows, f"{name}: {len(array)} rows instead of {rows}"
    fits = all(want in (-1, have) for want, have in zip(shape, array.shape, strict=True))
    assert fits, f"{name}: shape {array.shape} does not fit {shape}"
    if spec.datatype == "BYTES":
        assert all(isinstance(value, bytes) for value in array.flat), f"{name}: not all are bytes"
