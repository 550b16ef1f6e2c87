"""The suite catches executors whose optional methods break the contract, and passes one that keeps it."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from batcher.errors import ModelLoadError
from batcher.executor import BatchResult, Capabilities, ExecutionError, Options, read_options
from batcher.testing import ExecutorContract, FakeDevice


class NoOptions(Options):
    pass


class Device(FakeDevice):
    """Checks its options and refuses negative rows, in the second half."""

    def load(self, context):
        read_options(context, NoOptions)
        return super().load(context)

    def collect(self, handle):
        result = super().collect(handle)
        if (result.outputs["Y"] < 0).any():
            raise ExecutionError("negative", cause="input")
        return result


class Contract(ExecutorContract):
    max_batch_size = 4

    def make_executor(self):
        return Device()

    def make_inputs(self, rows, rng):
        return {"X": rng.random((rows, 2), np.float32)}

    def bad_inputs(self):
        return {"X": -np.ones((2, 2), np.float32)}

    def example_parameter(self, name):
        return 0

    def lack_memory(self, executor):
        def none(batch):
            raise ExecutionError("full", cause="memory")

        executor.answer_next(none)
        return True

    @pytest.fixture
    def options(self):
        return {}


class TestDevice(Contract):
    pass


class TestWithOneSize(Contract):
    """`dynamic_rows=False`, and outputs that are views of the inputs."""

    class Full(FakeDevice):
        capabilities = Capabilities(dynamic_rows=False)

        def __init__(self):
            super().__init__(batch_sizes=())

        def load(self, context):
            read_options(context, NoOptions)
            return super().load(context)

        def submit(self, batch):
            super().submit(batch)
            return batch, batch.inputs["X"][:, ::-1]

    def make_executor(self):
        return self.Full()

    def bad_inputs(self):
        return None


class TestWithConfiguredSizes(Contract):
    """What the configuration would say reaches the executor, and batches are of these sizes alone."""

    class Compiled(Device):
        def load(self, context):
            assert context.device == "gpu:1"
            assert context.buckets == {"X": {1: (2,)}}
            self.metadata = replace(self.metadata, batch_sizes=context.batch_sizes)
            return super().load(context)

    device = "gpu:1"
    batch_sizes = (1, 3)
    buckets = MappingProxyType({"X": {1: (2,)}})

    def make_executor(self):
        return self.Compiled()

    def bad_inputs(self):
        return {"X": -np.ones((3, 2), np.float32)}


class SameMemory(Device):
    def allocate(self, name, shape, dtype):
        return np.ndarray(shape, dtype, memory)


class ReadOnly(Device):
    def allocate(self, name, shape, dtype):
        array = super().allocate(name, shape, dtype)
        array.flags.writeable = False
        return array


class TooLong(Device):
    def allocate(self, name, shape, dtype):
        return super().allocate(name, (shape[0] + 1, *shape[1:]), dtype)


class KeepsInputs(Device):
    """Reads the inputs of a batch after it has ended."""

    before = None

    def collect(self, handle):
        before, self.before = self.before, handle[0].inputs["X"]
        if before is not None and np.isnan(before).any():
            return BatchResult({"Y": handle[1] + 1})
        return super().collect(handle)


class LastHandle(Device):
    """Answers each batch with the rows of the one that was submitted last."""

    last = None

    def submit(self, batch):
        self.last = super().submit(batch)
        return self.last

    def collect(self, handle):
        return super().collect((handle[0], self.last[1]))


class OtherHalves(Device):
    def execute(self, batch):
        result = super().execute(batch)
        return BatchResult({"Y": result.outputs["Y"] + 1})


class FailsAll(Device):
    """A batch that fails takes the one behind it along."""

    broken = False

    def collect(self, handle):
        if self.broken:
            self.broken = False
            super().collect(handle)
            raise ExecutionError("the stream is broken", cause="device")
        try:
            return super().collect(handle)
        except ExecutionError:
            self.broken = True
            raise


class TrustsParameters(Device):
    def submit(self, batch):
        if batch.parameters and not isinstance(batch.parameters["add"], int):
            raise TypeError("add")
        return super().submit(batch)


class BlamesTheDevice(Device):
    def submit(self, batch):
        try:
            return super().submit(batch)
        except ExecutionError as error:
            raise ExecutionError(str(error), cause="device") from None


class OutOfMemory(Device):
    def collect(self, handle):
        try:
            return super().collect(handle)
        except ExecutionError as error:
            raise ExecutionError(str(error)) from None


class SumsFilling(Device):
    """The answer of a row depends on how often it is there."""

    def submit(self, batch):
        _, rows = super().submit(batch)
        x = batch.inputs["X"]
        return batch, rows * (x[:, None] == x[None]).all(axis=2).sum(axis=1, dtype=np.float32)[
            :, None
        ]


memory = bytearray(4096)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (SameMemory, "test_memory_for_inputs_is_as_it_was_asked_for"),
        (ReadOnly, "test_memory_for_inputs_is_as_it_was_asked_for"),
        (TooLong, "test_memory_for_inputs_is_as_it_was_asked_for"),
        (KeepsInputs, "test_batches_in_allocated_memory_are_answered_as_in_other"),
        (KeepsInputs, "test_halves_in_allocated_memory"),
        (LastHandle, "test_halves_are_answered_as_the_whole"),
        (LastHandle, "test_halves_in_allocated_memory"),
        (OtherHalves, "test_halves_are_answered_as_the_whole"),
        (FailsAll, "test_a_half_that_fails_is_the_failure_of_its_batch_alone"),
        (TrustsParameters, "test_parameters_of_any_value_do_no_harm"),
        (BlamesTheDevice, "test_parameters_of_any_value_do_no_harm"),
        (OutOfMemory, "test_a_device_without_memory_says_so"),
        (SumsFilling, "test_filled_up_batches_are_answered_as_others"),
    ],
)
def test_broken_optional_methods_are_caught(broken, test, tmp_path):
    suite = Contract()
    suite.make_executor = broken
    with suite._loaded(suite._context({}, tmp_path)) as driver:
        check = getattr(suite, test)
        with pytest.raises((AssertionError, TypeError)):
            check(driver, np.random.default_rng(1))


@pytest.mark.parametrize("sizes", [(4, 2), (0, 4), (2, 2)])
def test_batch_sizes_that_do_not_ascend_are_caught(sizes, tmp_path):
    suite = Contract()
    suite.make_executor = lambda: FakeDevice(batch_sizes=sizes)
    with (
        pytest.raises(ModelLoadError, match="ascending"),
        suite._loaded(suite._context({}, tmp_path)),
    ):
        pass


def test_half_of_the_halves_is_caught():
    class Half(Device):
        collect = None

    suite = Contract()
    suite.make_executor = Half
    with pytest.raises(ModelLoadError, match="submit and collect together"):
        suite.test_class_is_an_executor()
