"""A stateful model of a repository: its `sequence_batching` is read, and holds."""

import numpy as np
import pytest

from batcher.testing.messages import infer_request, output_arrays

pytestmark = pytest.mark.slow

CONFIG = """backend: "onnxruntime"
max_batch_size: 4
sequence_batching {
  max_sequence_idle_microseconds: 10000000
  state [ {
    input_name: "SUM" output_name: "NEXT" data_type: TYPE_FP32 dims: [ 1 ]
    initial_state: { data_type: TYPE_FP32 dims: [ 1 ] data_file: "ten" name: "ten" }
  } ]
  oldest { max_candidate_sequences: 8 }
}
"""


def adding():
    """NEXT = SUM + X and Y = NEXT, each FP32 [rows, 1]."""
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT

    def info(name):
        return helper.make_tensor_value_info(name, number, ["rows", 1])

    graph = helper.make_graph(
        [
            helper.make_node("Add", ["SUM", "X"], ["NEXT"]),
            helper.make_node("Identity", ["NEXT"], ["Y"]),
        ],
        "adding",
        [info("X"), info("SUM")],
        [info("Y"), info("NEXT")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


async def test_state_goes_from_step_to_step_and_begins_with_the_file(
    repository, serve_repository, client
):
    repository.write("adding", 1, contents=adding(), config=CONFIG)
    initial = repository.path / "adding" / "initial_state"
    initial.mkdir()
    (initial / "ten").write_bytes(np.float32(10).tobytes())
    calls = await client(serve_repository())

    async def step(sequence, value, *, start=False, end=False):
        request = infer_request("adding", {"X": np.full((1, 1), value, np.float32)})
        request.parameters["sequence_id"].int64_param = sequence
        request.parameters["sequence_start"].bool_param = start
        request.parameters["sequence_end"].bool_param = end
        answer = await calls.data.ModelInfer(request, timeout=20)
        return float(output_arrays(answer)["Y"][0, 0])

    assert await step(7, 1, start=True) == 11
    assert await step(8, 100, start=True) == 110
    assert await step(7, 2) == 13
    assert await step(8, 1, end=True) == 111
    assert await step(7, 3, end=True) == 16
