"""What the neighbor says of the model, and when a load fails or is tried again."""

import asyncio

import grpc
import pytest

from batcher.errors import BackendUnavailable, ModelLoadError
from batcher.executors.kserve import KserveExecutor
from batcher.protocol import inference
from batcher.runtime.interface.row_axis import with_row_axes
from batcher.tensors import TensorSpec

CODE = grpc.StatusCode


async def test_the_configuration_of_the_neighbor_has_what_its_metadata_lacks(neighbor, load):
    neighbor.inputs.append(("M", "INT64", [-1, -1]))
    config = neighbor.made_config()
    config.input[1].optional = True
    config.dynamic_batching.preferred_batch_size.extend([4, 8])
    neighbor.config = config
    neighbor.start()
    _, metadata = await load()
    assert metadata.inputs == (
        TensorSpec("X", "FP32", (-1, 4)),
        TensorSpec("M", "INT64", (-1, -1), optional=True),
    )
    assert metadata.outputs == (TensorSpec("Y", "FP32", (-1, 4)),)
    assert (metadata.max_batch_size, metadata.preferred_batch_sizes) == (8, (4, 8))
    assert metadata.platform == "fake"
    assert metadata.properties == {"neighbor": neighbor.address, "model": "m", "versions": "1"}


async def test_a_neighbor_without_model_config_is_taken_at_its_metadata(neighbor, load):
    neighbor.config = False
    neighbor.start()
    _, metadata = await load()
    assert metadata.inputs == (TensorSpec("X", "FP32", (-1, 4)),)
    assert metadata.max_batch_size is None


async def test_a_fixed_first_axis_is_no_batch_axis(neighbor, load, kit):
    neighbor.config, neighbor.inputs = False, [("X", "FP32", [1, 4])]
    neighbor.start()
    _, metadata = await load()
    with pytest.raises(ModelLoadError, match=r"'X'.*has no batch axis first"):
        with_row_axes(metadata, kit.context_of(neighbor.address), KserveExecutor.capabilities)
    assert with_row_axes(
        metadata, kit.context_of(neighbor.address, max_batch_size=0), KserveExecutor.capabilities
    )


async def test_a_neighbor_that_does_not_batch_says_so(neighbor, load):
    neighbor.max_batch_size, neighbor.inputs = 0, [("X", "FP32", [3, 4])]
    neighbor.start()
    _, metadata = await load(max_batch_size=0)
    assert metadata.inputs == (TensorSpec("X", "FP32", (3, 4)),)
    assert metadata.max_batch_size == 0


PBTXT = """
max_batch_size: 16
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] } ]
dynamic_batching { preferred_batch_size: [ 8 ] }
"""


async def test_a_config_pbtxt_counts_instead_of_model_config(neighbor, load, tmp_path):
    (tmp_path / "config.pbtxt").write_text(PBTXT)
    neighbor.inputs, neighbor.outputs = [], []
    neighbor.start()
    _, metadata = await load(base_dir=tmp_path, config="config.pbtxt")
    assert metadata.inputs == (TensorSpec("X", "FP32", (-1, 4)),)
    assert (metadata.max_batch_size, metadata.preferred_batch_sizes) == (16, (8,))
    assert "ModelConfig" not in neighbor.asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PBTXT.replace("FP32", "FP64"), "disagree about inputs: X FP32 and X FP64"),
        ("max_batch_size: x", r"config\.pbtxt.*line 1"),
        (PBTXT.replace("dynamic_batching", "sequence_batching").replace("preferred_batch_size: [ 8 ]", ""),
         "sequences, whose state the neighbor keeps"),
    ],
)  # fmt: skip
async def test_a_config_pbtxt_that_does_not_fit_is_refused(neighbor, load, tmp_path, text, said):
    (tmp_path / "config.pbtxt").write_text(text)
    neighbor.start()
    with pytest.raises(ModelLoadError, match=said):
        await load(base_dir=tmp_path, config="config.pbtxt")


async def test_a_decoupled_model_is_refused(neighbor, load):
    neighbor.config = neighbor.made_config()
    neighbor.config.model_transaction_policy.decoupled = True
    neighbor.start()
    with pytest.raises(ModelLoadError, match="cannot be batched here: it is decoupled") as raised:
        await load()
    assert not isinstance(raised.value, BackendUnavailable)


async def test_a_stateful_model_is_refused(neighbor, load):
    neighbor.config = neighbor.made_config()
    neighbor.config.sequence_batching.max_sequence_idle_microseconds = 1
    neighbor.start()
    with pytest.raises(ModelLoadError, match="it has sequences"):
        await load()


async def test_a_neighbor_that_says_nothing_of_its_inputs_needs_a_config(neighbor, load):
    neighbor.config, neighbor.inputs = False, []
    neighbor.start()
    with pytest.raises(ModelLoadError, match=r"does not say which inputs .* options\.config"):
        await load()


async def test_a_neighbor_that_is_not_there_is_not_there_yet(neighbor, load):
    neighbor.start()
    neighbor.stop()
    with pytest.raises(
        BackendUnavailable, match=rf"neighbor {neighbor.address} answered UNAVAILABLE"
    ):
        await load()


async def test_a_model_that_is_not_ready_is_not_there_yet(neighbor, load):
    neighbor.ready = False
    neighbor.start()
    with pytest.raises(BackendUnavailable, match="'m' version 3 is not ready"):
        await load(version="3")


@pytest.mark.parametrize("code", [CODE.NOT_FOUND, CODE.UNAVAILABLE, CODE.RESOURCE_EXHAUSTED])
async def test_statuses_that_may_pass_are_not_there_yet(neighbor, load, kit, code):
    neighbor.refuse = kit.Refusal(code, "why")
    neighbor.start()
    with pytest.raises(BackendUnavailable, match=f"{code.name} for model 'm': why"):
        await load()


@pytest.mark.parametrize("code", [CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED, CODE.INTERNAL])
async def test_statuses_that_stay_fail_the_load(neighbor, load, kit, code):
    neighbor.refuse = kit.Refusal(code, "why")
    neighbor.start()
    with pytest.raises(ModelLoadError, match=f"{code.name} for model 'm': why") as raised:
        await load()
    assert not isinstance(raised.value, BackendUnavailable)


async def test_a_neighbor_that_does_not_answer_is_not_there_yet(neighbor, load):
    blocked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def never(request, context):
        asyncio.run_coroutine_threadsafe(blocked.wait(), loop).result(20)
        return inference.ModelReadyResponse()

    neighbor._ModelReady = never
    neighbor.start()
    with pytest.raises(BackendUnavailable, match="DEADLINE_EXCEEDED"):
        await load(connect_timeout="10ms")
    blocked.set()


async def test_a_neighbor_without_model_ready_is_asked_whether_it_is_ready(neighbor, load):
    neighbor.has_model_ready = False
    neighbor.start()
    await load()
    assert "ServerReady" in neighbor.asked


async def test_a_model_of_any_name_is_asked_for(neighbor, load):
    neighbor.start()
    _, metadata = await load(model="a/b c")
    assert metadata.properties["model"] == "a/b c"


async def test_a_failed_load_leaves_no_connection(neighbor, kit):
    neighbor.config = neighbor.made_config()
    neighbor.config.model_transaction_policy.decoupled = True
    neighbor.start()
    executor = KserveExecutor()
    with pytest.raises(ModelLoadError):
        await executor.load(kit.context_of(neighbor.address))
    assert executor._channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
