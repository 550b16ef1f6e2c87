"""ONNX files with arrays that have no row axis: refused, or each caller gets its own values."""

import asyncio

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from batcher.errors import ModelLoadError
from batcher.protocol import inference
from batcher.testing.messages import infer_request, output_arrays

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
FIXED = {"policy": "fixed", "max_batch_size": 8, "max_queue_delay": "5s"}


@pytest.fixture
def transport():
    """One: nothing here depends on it."""
    return "builtin"


@pytest.fixture
def onnx(tmp_path):
    """A function from nodes and {name: (element type, shape)} to the document that serves them."""

    def make(nodes, inputs, outputs, /, **model):
        def infos(specs):
            return [helper.make_tensor_value_info(n, *spec) for n, spec in specs.items()]

        graph = helper.make_graph(nodes, "m", infos(inputs), infos(outputs))
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / "m.onnx"
        path.write_bytes(made.SerializeToString())
        options = {"path": str(path), "threads": {"intra_op": 1}}
        entry = {"name": "hello", "executor": "onnxruntime", "options": options}
        return {"models": [entry | {"batching": FIXED} | model]}

    return make


def biased(onnx, **model):
    """Y = X + b, with X [rows, 4] and b [4]."""
    return onnx(
        [helper.make_node("Add", ["X", "b"], ["Y"])],
        {"X": (FLOAT, ["rows", 4]), "b": (FLOAT, [4])},
        {"Y": (FLOAT, ["rows", 4])},
        **model,
    )


def rows_of(value, rows, **others):
    arrays = {"X": np.full((rows, 4), value, np.float32)}
    return infer_request("hello", arrays | others)


async def test_an_unbatched_input_is_not_taken_for_rows(start, onnx):
    with pytest.raises(ModelLoadError, match=r"\{input: b, batched: false\} in inputs"):
        await start(biased(onnx))


async def test_callers_share_a_batch_only_with_equal_unbatched_inputs(start, dial, onnx, scrape):
    document = biased(onnx, inputs=[{"input": "b", "batched": False}])
    document["server"] = {"http": "127.0.0.1:0"}
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])
    metadata = await stub.ModelMetadata(inference.ModelMetadataRequest(name="hello"))
    assert {each.name: list(each.shape) for each in metadata.inputs} == {"X": [-1, 4], "b": [4]}
    before = (await scrape(application.http.address)).sum("batcher_batch_rows_count")
    # Two batches of 8 rows: a third kind of b would never be full.
    sent = [(n, 1 + n % 3, float(n % 2)) for n in range(8)]
    calls = [stub.ModelInfer(rows_of(n, 2, b=np.full(4, 100 * b, np.float32))) for n, _, b in sent]
    for (n, _, b), answer in zip(sent, await asyncio.gather(*calls), strict=True):
        assert output_arrays(answer)["Y"].tolist() == [[n + 100 * b] * 4] * 2
    after = (await scrape(application.http.address)).sum("batcher_batch_rows_count")
    assert after - before == 2


async def test_a_split_request_keeps_an_unbatched_input_whole(start, dial, onnx):
    application = await start(biased(onnx, inputs=[{"input": "b", "batched": False}]))
    stub = await dial(application.grpc.addresses[0])
    b = np.arange(4, dtype=np.float32)
    answer = await stub.ModelInfer(rows_of(1, 16, b=b))
    assert output_arrays(answer)["Y"].tolist() == (1 + b[np.newaxis].repeat(16, 0)).tolist()


def compress(onnx, rows, kept, **model):
    """Y = the rows of X [rows, 4] where KEEP is true."""
    return onnx(
        [helper.make_node("Compress", ["X", "KEEP"], ["Y"], axis=0)],
        {"X": (FLOAT, [rows, 4]), "KEEP": (BOOL, [rows])},
        {"Y": (FLOAT, [kept, 4])},
        **model,
    )


async def test_an_output_with_an_axis_of_its_own_is_not_split(start, onnx):
    for rows in ("rows", 4):
        document = compress(onnx, rows, "kept", batching=FIXED | {"max_batch_size": 4})
        with pytest.raises(ModelLoadError) as caught:
            await start(document)
        assert "models[0].outputs: the first axis of output 'Y' is 'kept'" in str(caught.value)
        assert "{output: Y, batched: true}" in str(caught.value)
        assert "batching.max_batch_size: 0" in str(caught.value)


async def test_with_fixed_rows_of_which_some_are_dropped_each_caller_gets_its_own(
    start, dial, onnx
):
    document = compress(
        onnx,
        4,
        None,
        batching=FIXED | {"max_batch_size": 4, "max_queue_delay": "0ms"},
        warmup={"batch_sizes": []},
    )
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])
    keep = np.array([False, True, True])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(rows_of(1, 3, KEEP=keep))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "output 'Y' has shape [3, 4]; its axis 0 should be 4" in caught.value.details()
    answer = await stub.ModelInfer(rows_of(1, 3, KEEP=np.ones(3, np.bool_)))
    assert output_arrays(answer)["Y"].tolist() == [[1] * 4] * 3


async def test_the_warm_up_finds_an_unnamed_output_without_rows(start, onnx):
    with pytest.raises(ModelLoadError, match=r"its shape is \[0, 4\], and axis 0 should be 1 long"):
        await start(compress(onnx, "rows", None))


async def test_similarities_of_all_rows_are_not_batched(start, dial, onnx):
    nodes = [
        helper.make_node("Transpose", ["X"], ["T"]),
        helper.make_node("MatMul", ["X", "T"], ["Y"]),
    ]
    shapes = {"X": (FLOAT, ["n", 2])}, {"Y": (FLOAT, ["n", "n"])}
    with pytest.raises(ModelLoadError, match="'Y' has the batch axis 'n' twice"):
        await start(onnx(nodes, *shapes))
    application = await start(onnx(nodes, *shapes, batching={"max_batch_size": 0}))
    stub = await dial(application.grpc.addresses[0])
    rows = [np.random.default_rng(n).random((n, 2), np.float32) for n in range(1, 6)]
    calls = [stub.ModelInfer(infer_request("hello", {"X": each})) for each in rows]
    for each, answer in zip(rows, await asyncio.gather(*calls), strict=True):
        np.testing.assert_allclose(output_arrays(answer)["Y"], each @ each.T, rtol=1e-5)


async def test_the_warm_up_finds_answers_whose_shape_depends_on_the_batch(start, onnx):
    nodes = [
        helper.make_node("Transpose", ["X"], ["T"]),
        helper.make_node("MatMul", ["X", "T"], ["Y"]),
    ]
    document = onnx(nodes, {"X": (FLOAT, [None, 2])}, {"Y": (FLOAT, [None, None])})
    with pytest.raises(ModelLoadError) as caught:
        await start(document)
    assert "has shape [1, 1] for 1 rows and [2, 2] for 2 equal ones" in str(caught.value)
    assert "batching.max_batch_size: 0" in str(caught.value)


@pytest.mark.parametrize("policy", ["adaptive", "fixed", "none"])
async def test_a_model_without_a_batch_axis_as_a_triton_client_sees_it(start, dial, onnx, policy):
    document = onnx(
        [
            helper.make_node("Mul", ["X", "scale"], ["Y"]),
            helper.make_node("ReduceSum", ["Y"], ["total"], keepdims=0),
        ],
        {"X": (FLOAT, [2, "n"]), "scale": (FLOAT, [])},
        {"Y": (FLOAT, [2, "n"]), "total": (FLOAT, [])},
        batching={"policy": policy, "max_batch_size": 0},
        on_nan="fail",
    )
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])
    metadata = await stub.ModelMetadata(inference.ModelMetadataRequest(name="hello"))
    assert {each.name: list(each.shape) for each in metadata.inputs} == {"X": [2, -1], "scale": []}
    assert {each.name: list(each.shape) for each in metadata.outputs} == {"Y": [2, -1], "total": []}
    config = (await stub.ModelConfig(inference.ModelConfigRequest(name="hello"))).config
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [list(each.dims) for each in config.input] == [[2, -1], []]

    async def infer(n, scale=2.0, **rest):
        x = np.arange(2 * n, dtype=np.float32).reshape(2, n)
        arrays = {"X": x, "scale": np.asarray(scale, np.float32)}
        request = infer_request("hello", arrays)
        for name, count in rest.items():
            request.outputs.add(name=name).parameters["classification"].int64_param = count
        return x, await stub.ModelInfer(request)

    for x, answer in await asyncio.gather(*(infer(n) for n in (1, 2, 2, 3, 5))):
        outputs = output_arrays(answer)
        assert outputs["Y"].tolist() == (2 * x).tolist()
        assert (outputs["total"].shape, float(outputs["total"])) == ((), 2 * x.sum())
    _, answer = await infer(2, Y=3)
    assert list(answer.outputs[0].shape) == [3]
    with pytest.raises(grpc.aio.AioRpcError, match="contains NaN"):
        await infer(2, scale=float("nan"))
    request = infer_request("hello", {"X": np.ones((3, 1), np.float32)})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = await stub.ModelStatistics(inference.ModelStatisticsRequest(name="hello"))
    (statistics,) = found.model_stats
    assert [each.batch_size for each in statistics.batch_stats] == [1]
    assert (statistics.inference_count, statistics.execution_count) == (6, 7), "one had NaN"


async def test_a_value_that_an_operator_refuses_is_invalid_wherever_in_the_batch(start, dial, onnx):
    document = onnx(
        [
            helper.make_node("Constant", [], ["W"], value_floats=[0.0, 1.0, 2.0]),
            helper.make_node("Gather", ["W", "I"], ["Y"]),
        ],
        {"I": (INT64, ["rows"])},
        {"Y": (FLOAT, ["rows"])},
        batching=FIXED | {"max_queue_delay": "20ms"},
    )
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])

    async def ends(*indices):
        calls = [stub.ModelInfer(infer_request("hello", {"I": np.array([i])})) for i in indices]
        return await asyncio.gather(*calls, return_exceptions=True)

    for place in range(8):
        indices = [n % 3 for n in range(8)]
        indices[place] = 77
        for index, end in zip(indices, await ends(*indices), strict=True):
            if index == 77:
                assert end.code() is grpc.StatusCode.INVALID_ARGUMENT, place
                assert "refused the input" in end.details()
            else:
                assert output_arrays(end)["Y"].tolist() == [index]
