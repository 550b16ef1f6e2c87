"""Model repositories with small ONNX models: Y = factor * X, with X FP32 [rows, 2]."""

import numpy as np
import pytest

from batcher.protocol import inference
from batcher.testing.messages import infer_request, output_arrays

CONFIG = 'backend: "onnxruntime"\nmax_batch_size: 8\ndynamic_batching { }\n'


def onnx_model(factor):
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.array([factor], np.float32), "W")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["X", "W"], ["Y"])],
        "scaled",
        [helper.make_tensor_value_info("X", number, ["rows", 2])],
        [helper.make_tensor_value_info("Y", number, ["rows", 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


class Repository:
    """Writes models, each file under another name that is then renamed."""

    config = CONFIG
    model = staticmethod(onnx_model)

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def write(self, name, version, factor=None, *, contents=None, config=CONFIG):
        folder = self.path / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (self.path / name / "config.pbtxt").write_text(config)
        part = folder / ".part"
        part.write_bytes(onnx_model(factor) if contents is None else contents)
        part.rename(folder / "model.onnx")


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "models")


class Client:
    """Calls of one server that has a model repository."""

    def __init__(self, data, admin):
        self.data, self.admin = data, admin

    async def factor(self, name, version=""):
        """What the model multiplies by."""
        request = infer_request(name, {"X": np.ones((1, 2), np.float32)}, model_version=version)
        answer = await self.data.ModelInfer(request, timeout=20)
        return float(output_arrays(answer)["Y"][0, 0])

    async def index(self, *, ready=False):
        """(Name, version) -> (state, reason)."""
        answer = await self.data.RepositoryIndex(inference.RepositoryIndexRequest(ready=ready))
        return {(m.name, m.version): (m.state, m.reason) for m in answer.models}

    async def is_ready(self, name, version=""):
        request = inference.ModelReadyRequest(name=name, version=version)
        return (await self.data.ModelReady(request)).ready

    async def load(self, name, *, config=None, files=None):
        request = inference.RepositoryModelLoadRequest(model_name=name)
        if config is not None:
            request.parameters["config"].string_param = config
        for path, contents in (files or {}).items():
            request.parameters[f"file:{path}"].bytes_param = contents
        await self.admin.RepositoryModelLoad(request, timeout=30)

    async def unload(self, name):
        request = inference.RepositoryModelUnloadRequest(model_name=name)
        await self.admin.RepositoryModelUnload(request, timeout=30)


@pytest.fixture
def client(dial):
    async def connect(server):
        return Client(await dial(server.grpc), await dial(server.admin))

    return connect


@pytest.fixture
def serve_repository(serve, repository, tmp_path):
    """A function from keys of `model_repository` to a started server."""

    def start(**keys):
        section = {"path": str(repository.path), "poll_interval": "100ms"} | keys
        admin = f"unix:{tmp_path}/admin.sock"
        return serve({"server": {"admin": [admin]}, "model_repository": section})

    return start
