"""What a subclass of `ExecutorContract` says of its executor, and what the tests of it share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from batcher.executor import (
    Array,
    AsyncExecutor,
    Executor,
    LoadContext,
    MetadataValue,
    ParameterValue,
)
from batcher.testing.contract_driver import ContractDriver

_UNKNOWN_OPTION = "no_such_option"


class ContractHooks:
    """Override what a docstring marks as yours."""

    max_batch_size = 8
    """Yours: the largest batch that is tried; at least 2 unless the model takes one row only, and 0
    where it has no batch axis."""
    batched: Mapping[str, bool] = MappingProxyType({})
    """Yours, if there are any: input -> what the configuration would say of it under `inputs`."""
    device = "cpu"
    """Yours, if it is another: the device to load on, as a configuration would name it."""
    batch_sizes: tuple[int, ...] = ()
    """Yours, if it needs some: what the configuration would say under `batching.batch_sizes`. Batches of
    these sizes are tried then, and no others."""
    buckets: Mapping[str, Mapping[int, tuple[int, ...]]] = MappingProxyType({})
    """Yours, if it needs some: input -> axis -> lengths, as the configuration would say under `padding`.
    `make_inputs` makes inputs of such lengths."""
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

    def batch_dependent(self) -> set[str]:
        """Yours: outputs whose value says something about the batch, such as its size."""
        return set()

    def example_metadata(self, name: str) -> MetadataValue:
        """Yours, if any value will not do: a value of the caller's metadata of this name."""
        return b"\x00example" if name.endswith("-bin") else "example"

    def example_parameter(self, name: str) -> ParameterValue | None:
        """Yours, if `ModelMetadata.parameters` has names: a value of this parameter that is valid."""
        del name
        return None

    def lack_memory(self, executor: Executor | AsyncExecutor) -> bool:
        """Yours, if it can be arranged: let the next batch find the device without memory, and return True."""
        del executor
        return False

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
    def driver(self, context: LoadContext) -> Iterator[ContractDriver]:
        """A loaded executor on its own thread, closed at the end."""
        with self._loaded(context) as driver:
            yield driver

    @pytest.fixture
    def rng(self) -> np.random.Generator:
        """A seeded source for the inputs."""
        return np.random.default_rng(1)

    def _context(self, options: Mapping[str, Any], base_dir: Path) -> LoadContext:
        return LoadContext(
            "contract",
            "1",
            0,
            self.device,
            self.max_batch_size,
            options,
            base_dir,
            self.batched,
            batch_sizes=self.batch_sizes,
            buckets=self.buckets,
        )

    @contextmanager
    def _loaded(self, context: LoadContext) -> Iterator[ContractDriver]:
        with ExitStack() as stack:
            driver = ContractDriver(self.make_executor(), context)
            stack.callback(driver.stop)
            driver.load()
            yield driver

    def _sizes(self, driver: ContractDriver) -> Sequence[int]:
        """Every batch size that the executor must take, ascending."""
        most = max(1, self.max_batch_size)
        assert driver.metadata is not None
        known = driver.metadata.batch_sizes
        if sizes := self.batch_sizes or known:
            assert not known or set(sizes) <= set(known), (
                f"batch_sizes {sizes} are not all in {known}"
            )
            usable = [size for size in sizes if size <= most]
            assert usable, f"no batch size up to max_batch_size, which is {most}"
            return usable
        return range(1 if driver.executor.capabilities.dynamic_rows else most, most + 1)

    def _assert_close(self, got: Array, expected: Array, what: str) -> None:
        assert got.shape == expected.shape, what
        if got.dtype.kind == "f":
            np.testing.assert_allclose(
                got, expected, rtol=self.tolerance, atol=self.tolerance, err_msg=what
            )
        else:
            np.testing.assert_array_equal(got, expected, err_msg=what)
