"""Images serve: as an unprivileged user, on a root that cannot be written to, without a shell or /tmp."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from containers import WAIT_S, Container
from onnx import TensorProto, helper
from prometheus_client.parser import text_string_to_metric_families

from batcher.testing.messages import infer_request, output_arrays

DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = [pytest.mark.image, pytest.mark.slow]


def get(web, path):
    """The text of a page of the server."""
    with urllib.request.urlopen(f"http://{web}{path}", timeout=WAIT_S) as answer:
        return answer.read().decode()


def health_check(web):
    """What compose.yaml runs in the container, for another address."""
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    kind, *command = compose["services"]["batcher"]["healthcheck"]["test"]
    assert kind == "CMD"
    return [word.replace("127.0.0.1:8002", web) for word in command]


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
        assert container.execute(*health_check(web)) == 0
        assert container.execute(*health_check("127.0.0.1:1")) != 0
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
