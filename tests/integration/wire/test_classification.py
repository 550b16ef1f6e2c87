"""Outputs that are answered as the highest classes of each row."""

import numpy as np
import pytest

from batcher.protocol import inference
from batcher.testing.messages import infer_request


@pytest.fixture(params=["standard", "triton"])
async def stub(request, start, hello, dial, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\n")
    outputs = [{"output": "Y", "labels": str(tmp_path / "labels.txt")}]
    document = hello(server={"status_codes": request.param}, outputs=outputs)
    return await dial((await start(document)).grpc.addresses[0])


async def test_a_class_is_answered_with_its_label(stub):
    request = infer_request("hello", {"X": np.array([[4, 1, 3, 2]], np.float32)})
    request.outputs.add(name="Y").parameters["classification"].int64_param = 3

    answer = await stub.ModelInfer(request)

    assert (answer.outputs[0].datatype, answer.outputs[0].shape) == ("BYTES", [1, 3])
    raw = answer.raw_output_contents[0]
    texts = [text[4:] for text in (raw[:18], raw[18:36])]
    assert texts == [b"8.000000:0:cat", b"6.000000:2:owl"]
    assert raw[36:] == b"\x0a\0\0\x004.000000:3"


async def test_the_configuration_names_the_file(stub):
    answer = await stub.ModelConfig(inference.ModelConfigRequest(name="hello"))

    assert {each.name: each.label_filename for each in answer.config.output} == {
        "Y": "labels.txt",
        "BATCH": "",
    }
