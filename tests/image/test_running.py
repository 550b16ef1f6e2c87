"""Images serve: as an unprivileged user, on a root that cannot be written to, without a shell or /tmp."""

import json
import urllib.request

import grpc
import numpy as np
import pytest
from containers import WAIT_S, Container
from onnx import TensorProto, helper
from prometheus_client.parser import text_string_to_metric_families

from batcher import protocol
from batcher.testing.messages import infer_request, output_arrays
from batcher.testing.server import free_address

pytestmark = [pytest.mark.image, pytest.mark.slow]


@pytest.fixture
def configured(tmp_path):
    """A function from a model to (folder with its configuration, gRPC address, HTTP address)."""
    tmp_path.chmod(0o755)

    def configure(**model):
        data, web = free_address(), free_address()
        server = {"grpc": [data], "http": web, "drain_delay": 0}
        document = {"server": server, "models": [{"name": "tested", **model}]}
        (tmp_path / "config.yaml").write_text(json.dumps(document))
        return tmp_path, data, web

    return configure


@pytest.fixture
def stub():
    """A function from an address to what calls its inference service."""
    channels = []

    def dial(address):
        channels.append(grpc.insecure_channel(address))
        return protocol.Stub(channels[-1], protocol.INFERENCE)

    yield dial
    for channel in channels:
        channel.close()


def get(web, path):
    """The text of a page of the server."""
    with urllib.request.urlopen(f"http://{web}{path}", timeout=WAIT_S) as answer:
        return answer.read().decode()


def executing(web):
    """Whether a batch runs."""
    families = text_string_to_metric_families(get(web, "/metrics"))
    samples = [sample for family in families for sample in family.samples]
    return any(s.name == "batcher_batches_in_flight" and s.value for s in samples)


def test_it_serves_and_answers_what_it_has_when_it_is_stopped(image, configured, stub):
    options = {"base": "2s", "per_row": "1ms", "columns": 4}
    folder, data, web = configured(
        executor="emulated",
        options=options,
        warmup={"batch_sizes": []},
        batching={"policy": "none"},
    )
    with Container(image, mounts={"/etc/batcher": folder}) as container:
        container.wait_until_ready()
        assert json.loads(get(web, "/readyz"))["ready"]
        request = infer_request("tested", {"X": np.ones((1, 4), np.float32)})
        call = stub(data).ModelInfer.future(request, timeout=WAIT_S)
        while not call.done() and not executing(web):
            pass
        assert container.stop() == 0, container.output()
        assert (output_arrays(call.result())["Y"] == 2).all()
    assert "drained: every request has ended" in container.output()


def test_it_serves_an_onnx_model_that_is_mounted(built, configured, stub):
    folder, data, _ = configured(
        executor="onnxruntime",
        options={"path": "/models/double.onnx"},
        batching={"max_batch_size": 4},
    )
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 2]) for n in "XY")
    node = helper.make_node("Add", ["X", "X"], ["Y"])
    graph = helper.make_graph([node], "double", [x], [y])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    models = folder / "models"
    models.mkdir()
    (models / "double.onnx").write_bytes(model.SerializeToString())
    with Container(built("cpu"), mounts={"/etc/batcher": folder, "/models": models}) as container:
        container.wait_until_ready()
        request = infer_request("tested", {"X": np.ones((3, 2), np.float32)})
        answer = stub(data).ModelInfer(request, timeout=WAIT_S)
        assert (output_arrays(answer)["Y"] == 2).all()
        assert container.stop() == 0, container.output()
    # ONNX Runtime has nothing to complain about: neither the root that it cannot write to, nor /tmp.
    assert "onnxruntime:" not in container.output()


@pytest.mark.parametrize("command", ["serve", "scaler"])
def test_other_commands_run(built, command):
    with Container(built("slim"), arguments=[command, "--help"]) as container:
        printed, code = container.answer()
    assert code == 0, container.output()
    assert f"batcher {command}" in printed


def test_a_configuration_that_is_not_mounted_is_named(built):
    with Container(built("slim")) as container:
        assert container.answer() == ("", 2)
    assert "/etc/batcher/config.yaml" in container.output()
