"""Where the configuration does not say how large batches are, the executor's backend does."""

from itertools import count

import numpy as np
import pytest

from batcher.config import with_changes
from batcher.core.settings import FixedWindow
from batcher.errors import ModelLoadError
from batcher.executor import ModelMetadata, TensorSpec
from batcher.protocol import inference
from batcher.testing import FakeExecutor

WAIT_S = 20
AXIS = (TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("Y", "FP32", (-1, 4)),)
NO_AXIS = (TensorSpec("X", "FP32", (4,)),), (TensorSpec("Y", "FP32", (4,)),)


@pytest.fixture
def serve_with(start, hello, fakes):
    """A function from what the backend says, and settings, to a started application."""

    async def serve(most, preferred=(), *, specs=AXIS, **model):
        fakes.options = {
            "metadata": ModelMetadata(
                "fake", *specs, max_batch_size=most, preferred_batch_sizes=preferred
            )
        }
        return await start(hello(executor="fake", options={}, **({"warmup": {}} | model)))

    return serve


@pytest.mark.parametrize(("most", "loads"), [(None, 1), (32, 1), (4, 2), (64, 2)])
async def test_the_backend_says_the_size_where_the_configuration_does_not(
    serve_with, fakes, dial, request_of, most, loads
):
    application = await serve_with(most)
    rows = 32 if most is None else most
    (model,) = application.models
    assert len(fakes) == loads
    assert fakes[-1].context.max_batch_size == rows
    assert max(fakes[-1].batch_sizes) == rows == model.max_batch_size == model.largest_batch
    assert all(fake.calls[-1].method == "close" for fake in fakes[:-1])
    stub = await dial(application.grpc.addresses[0])
    answer = await stub.ModelInfer(request_of(rows=rows + 1), timeout=WAIT_S)
    assert answer.outputs[0].shape == [rows + 1, 4]
    assert max(fakes[-1].batch_sizes) == rows
    config = await stub.ModelConfig(inference.ModelConfigRequest(name="hello"))
    assert config.config.max_batch_size == rows


async def test_a_backend_without_batches_gets_each_request_alone(serve_with, fakes):
    application = await serve_with(0, specs=NO_AXIS)
    (model,) = application.models
    assert model.max_batch_size == fakes[-1].context.max_batch_size == 0


@pytest.mark.parametrize(("rows", "most"), [(8, 4), (1, 0)])
async def test_a_configuration_that_asks_for_more_is_refused(serve_with, rows, most):
    with pytest.raises(ModelLoadError) as caught:
        await serve_with(most, batching={"max_batch_size": rows})
    assert str(caught.value) == (
        f"model 'hello': batching.max_batch_size: got {rows}; allowed: at most {most}, the most rows"
        " that the executor's backend takes"
    )


async def test_a_configuration_that_asks_for_less_is_in_force(serve_with, fakes):
    application = await serve_with(64, batching={"max_batch_size": 8})
    (model,) = application.models
    assert model.max_batch_size == 8
    assert len(fakes) == 1


async def test_other_keys_have_to_fit_the_size(serve_with):
    with pytest.raises(ModelLoadError, match=r"takes batches of at most 4 rows: .*max_batch_size"):
        await serve_with(4, warmup={"batch_sizes": [1, 16]})


@pytest.mark.parametrize(
    ("batching", "sizes"),
    [
        ({"policy": "fixed"}, (2, 4)),
        ({"policy": "fixed", "preferred_batch_sizes": [3]}, (3,)),
        ({"policy": "fixed", "preferred_batch_sizes": []}, ()),
    ],
)
async def test_preferred_sizes(serve_with, batching, sizes):
    application = await serve_with(4, (4, 2, 16), batching=batching)
    (model,) = application.models
    assert isinstance(model.settings.policy, FixedWindow)
    assert model.settings.policy.preferred_sizes == sizes


async def test_a_change_of_another_setting_keeps_the_size(serve_with):
    application = await serve_with(4)
    (model,) = application.models
    await application.live_settings.update("hello", "", {"queue.max_requests": "7"})
    assert model.settings.queue.max_requests == 7
    assert model.settings.max_batch_size == 4
    await application.live_settings.update("hello", "", {"batching.max_batch_size": "2"})
    assert model.settings.max_batch_size == 2


async def test_what_is_not_set_stays_so_through_changes(serve_with):
    application = await serve_with(4)
    (config,) = application.manager.configurations()
    changed = with_changes(config, {"queue.max_requests": "7"})
    assert "max_batch_size" not in changed.batching.model_fields_set


async def test_a_backend_that_says_something_else_each_time_is_not_loaded(
    start, hello, monkeypatch
):
    numbers = count(1)

    def make():
        return FakeExecutor(metadata=ModelMetadata("fake", *AXIS, max_batch_size=next(numbers)))

    monkeypatch.setattr("batcher.plugins.find_executor", lambda _: make)
    with pytest.raises(ModelLoadError, match="another max_batch_size each time: 1, then 2"):
        await start(hello(executor="fake", options={}))


async def test_an_executor_with_fixed_rows_gets_full_batches_of_that_size(
    serve_with, fakes, dial, request_of, monkeypatch
):
    monkeypatch.setattr(
        FakeExecutor, "capabilities", type(FakeExecutor.capabilities)(dynamic_rows=False)
    )
    application = await serve_with(4, warmup={"batch_sizes": []})
    stub = await dial(application.grpc.addresses[0])
    answer = await stub.ModelInfer(request_of(2.0), timeout=WAIT_S)
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [4.0] * 4
    assert fakes[-1].batch_sizes == [4]
