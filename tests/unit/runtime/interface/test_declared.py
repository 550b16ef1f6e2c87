"""What an executor declares is checked when it loads, and each error names both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.errors import ModelLoadError
from batcher.executor import Capabilities, LoadContext, ModelMetadata, TensorSpec
from batcher.runtime.interface.declared import (
    RESERVED_PARAMETERS,
    RESERVED_PREFIX,
    check_executor,
)
from batcher.runtime.interface.row_axis import with_row_axes
from batcher.server.messages import parameters
from batcher.testing import FakeExecutor

CONTEXT = LoadContext("m", "1", 0, "cpu", 8, {})
METADATA = ModelMetadata(
    "fake", (TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("Y", "FP32", (-1, -1)),)
)
FIXED = Capabilities()


def refused(metadata=METADATA, context=CONTEXT, capabilities=FIXED):
    with pytest.raises(ModelLoadError) as caught:
        with_row_axes(metadata, context, capabilities)
    return str(caught.value)


def class_refused(executor, isolation="thread", max_in_flight=1):
    with pytest.raises(ModelLoadError) as caught:
        check_executor(executor, "m", isolation, max_in_flight)
    return str(caught.value)


def test_axes_that_vary_must_be_declared():
    varies = replace(METADATA, inputs=(TensorSpec("X", "FP32", (-1, 4, -1)),))
    assert refused(varies) == (
        "model 'm': input 'X' of shape [-1, 4, -1] has an axis that varies, and its executor declares"
        " Capabilities(dynamic_axes=False)"
    )
    assert with_row_axes(varies, CONTEXT, Capabilities(dynamic_axes=True)) == varies
    assert with_row_axes(METADATA, CONTEXT, FIXED) == METADATA


def test_padding_needs_axes_that_vary():
    padded = replace(CONTEXT, buckets={"X": {1: (4, 8)}})
    assert refused(context=padded) == (
        "model 'm': padding: got axis 1 of input 'X'; allowed: none, as its executor declares"
        " Capabilities(dynamic_axes=False), so that no axis varies"
    )


@pytest.mark.parametrize(
    "sizes", [(4, 2), (1, 1, 2), (0, 4), (-1,), [1, 2], (True, 2), (1.0, 2), "12", None, 4]
)
def test_batch_sizes_must_ascend_from_one(sizes):
    said = refused(replace(METADATA, batch_sizes=sizes))
    assert f"declares batch_sizes {sizes!r}; allowed: a tuple of whole numbers from 1" in said


def test_batch_sizes_must_suit_the_model():
    metadata = replace(METADATA, batch_sizes=(1, 4, 8))
    assert with_row_axes(metadata, CONTEXT, FIXED).batch_sizes == (1, 4, 8)
    said = refused(metadata, replace(CONTEXT, max_batch_size=0))
    assert "batch_sizes [1, 4, 8], and the model has no batch axis (batching.max_batch_size" in said
    said = refused(metadata, capabilities=Capabilities(dynamic_rows=False))
    assert "batch_sizes [1, 4, 8] and Capabilities(dynamic_rows=False), which means [8]" in said
    one = replace(METADATA, batch_sizes=(8,))
    assert with_row_axes(one, CONTEXT, Capabilities(dynamic_rows=False)) == one


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["beam"], "parameters: got ['beam']; allowed: a tuple of names"),
        ((7,), "parameters: got 7; allowed: names of request parameters"),
        (("",), "parameters: got ''; allowed: names of request parameters"),
        (("beam", "beam"), "parameters: 'beam' is there twice"),
        (("timeout",), "parameters: got 'timeout'; allowed: names that the protocol does not use"),
        (("triton_x",), "parameters: got 'triton_x'; allowed: names that the protocol does not"),
    ],
)
def test_parameters_must_be_such_that_reach_an_executor(names, said):
    assert said in refused(replace(METADATA, parameters=names))


@pytest.mark.parametrize("gpu", [True, -1, 1.5, "", "G" * 101, ["GPU-1"], b"GPU-1"])
def test_a_gpu_must_be_one_that_has_a_name(gpu):
    said = refused(replace(METADATA, gpu=gpu))
    assert "allowed: CUDA's number, a UUID, a PCI bus id, or None" in said
    assert len(said) < 400


@pytest.mark.parametrize("gpu", [None, 0, 15, "GPU-1b2c3d4e", "0000:3b:00.0"])
def test_names_of_gpus(gpu):
    with_row_axes(replace(METADATA, gpu=gpu), CONTEXT, Capabilities(dynamic_axes=True))


def test_the_reserved_parameters_are_those_that_the_server_takes_out():
    assert frozenset(parameters._RESERVED) == RESERVED_PARAMETERS
    assert parameters._RESERVED_PREFIX == RESERVED_PREFIX


class Remote:
    capabilities = Capabilities(max_in_flight=4)

    async def load(self, context): ...

    async def execute(self, batch): ...

    async def close(self): ...


def with_methods(kind, *names, **more):
    methods = dict.fromkeys(names, lambda *_: None)
    return type("Executor", (kind,), {**methods, **more})()


def test_a_blocking_executor_runs_one_batch_at_a_time():
    several = with_methods(FakeExecutor, capabilities=Capabilities(max_in_flight=3))
    assert class_refused(several) == (
        "model 'm': executor: it declares Capabilities(max_in_flight=3), and is blocking: all its calls"
        " are made by one thread; allowed: 1"
    )
    said = class_refused(FakeExecutor(), max_in_flight=2)
    assert said == (
        "model 'm': max_in_flight: got 2; allowed: 1 to 1, the most batches that the executor can run at"
        " once"
    )
    assert "allowed: 1 to 4" in class_refused(Remote(), max_in_flight=5)
    for wrong in (0, -1, True, "2", None):
        wrong_class = with_methods(Remote, capabilities=Capabilities(max_in_flight=wrong))
        assert f"max_in_flight={wrong}); allowed: a whole number from 1" in class_refused(
            wrong_class
        )
    check_executor(Remote(), "m", "thread", 4)


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        (
            with_methods(FakeExecutor, "submit"),
            "the method submit; allowed: submit and collect together",
        ),
        (with_methods(FakeExecutor, "collect"), "the method collect; allowed: submit and collect"),
        (
            with_methods(Remote, "allocate"),
            "has the method allocate, which only a blocking executor",
        ),
        (with_methods(Remote, "submit", "collect"), "submit and collect, which only a blocking"),
        (
            with_methods(FakeExecutor, "allocate", capabilities=Capabilities(raw=True)),
            "allocate, and declares Capabilities(raw=True): it gets no arrays",
        ),
        (
            with_methods(FakeExecutor, allocate=Remote.execute),
            "executor: its method allocate is a coroutine",
        ),
    ],
)
def test_optional_methods_must_go_together_with_the_rest(executor, said):
    assert said in class_refused(executor)


def test_an_executor_that_declares_nothing_special_runs_with_every_isolation():
    every = with_methods(FakeExecutor, "allocate", "submit", "collect")
    for isolation in ("inline", "thread", "process"):
        check_executor(FakeExecutor(), "m", isolation, 1)
        check_executor(every, "m", isolation, 1)


def test_an_executor_that_sends_batches_on_runs_in_the_server():
    raw = with_methods(Remote, capabilities=Capabilities(raw=True))
    assert "isolation: got 'process'; allowed: thread" in class_refused(raw, "process")
    check_executor(raw, "m", "thread", 1)
