"""A server with small models, and what unmodified Triton clients report of it."""

import json
import subprocess
from pathlib import Path

import pytest

from batcher.testing.server import ServerProcess

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TRANSPORTS = ("grpcio", "builtin")
"""Clients notice no difference."""
CLIENTS = Path(__file__).with_name("clients")
ONNX_TYPES = {
    "BOOL": "BOOL",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "FP16": "FLOAT16",
    "FP32": "FLOAT",
    "FP64": "DOUBLE",
    "BYTES": "STRING",
}


def save_model(path, nodes, inputs, outputs):
    """Write an ONNX file whose tensors are given as (name, ONNX type, columns)."""

    def described(tensors):
        return [
            onnx.helper.make_tensor_value_info(
                name, getattr(onnx.TensorProto, kind), ["batch", columns]
            )
            for name, kind, columns in tensors
        ]

    graph = onnx.helper.make_graph(nodes, path.stem, described(inputs), described(outputs))
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def save_types(path):
    """Every datatype but BF16, which ONNX Runtime cannot hand over in Python: from `IN_<type>` to `OUT_<type>` unchanged, three columns each."""
    node = onnx.helper.make_node
    save_model(
        path,
        [node("Identity", [f"IN_{name}"], [f"OUT_{name}"]) for name in ONNX_TYPES],
        [(f"IN_{name}", kind, 3) for name, kind in ONNX_TYPES.items()],
        [(f"OUT_{name}", kind, 3) for name, kind in ONNX_TYPES.items()],
    )


def save_sums(path):
    """Two inputs of four columns, their sum and their difference."""
    node = onnx.helper.make_node
    save_model(
        path,
        [node("Add", ["A", "B"], ["SUM"]), node("Sub", ["A", "B"], ["DIFFERENCE"])],
        [("A", "FLOAT", 4), ("B", "FLOAT", 4)],
        [("SUM", "FLOAT", 4), ("DIFFERENCE", "FLOAT", 4)],
    )


def save_totals(path):
    """A recurrent model of one column: `TOTAL` = X + what it was in the step before."""
    node = onnx.helper.make_node
    save_model(
        path,
        [node("Add", ["X", "BEFORE"], ["AFTER"]), node("Identity", ["AFTER"], ["TOTAL"])],
        [("X", "FLOAT", 1), ("BEFORE", "FLOAT", 1)],
        [("TOTAL", "FLOAT", 1), ("AFTER", "FLOAT", 1)],
    )


def save_whole(path):
    """No batch axis: `Y` = X * SCALE, where X is [2, n] and SCALE a scalar, and its sum, a scalar."""
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node("Mul", ["X", "SCALE"], ["Y"]), node("ReduceSum", ["Y"], ["TOTAL"], keepdims=0)],
        path.stem,
        [info("X", kind, [2, "n"]), info("SCALE", kind, [])],
        [info("Y", kind, [2, "n"]), info("TOTAL", kind, [])],
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def save_repository(path):
    """`stored`, in Triton's layout: `Y` = -X, four columns."""
    (path / "stored" / "1").mkdir(parents=True)
    node = onnx.helper.make_node("Neg", ["X"], ["Y"])
    columns = [("X", "FLOAT", 4)], [("Y", "FLOAT", 4)]
    save_model(path / "stored" / "1" / "model.onnx", [node], *columns)
    (path / "stored" / "config.pbtxt").write_text(
        'platform: "onnxruntime_onnx"\nmax_batch_size: 8\ndynamic_batching { }\n'
    )


def config():
    """`hello` and `slow` are emulated, the others are ONNX files beside the document."""
    batching = {"policy": "fixed", "max_batch_size": 8, "max_queue_delay": "1ms"}
    return {
        "models": [
            {
                "name": "hello",
                "executor": "emulated",
                "options": {"base": "1ms", "columns": 16},
                "batching": batching,
            },
            {
                "name": "slow",
                "executor": "emulated",
                "options": {"base": "400ms", "columns": 1},
                "device": "elsewhere",
                "batching": batching,
                "warmup": {"batch_sizes": []},
            },
            *(
                {
                    "name": name,
                    "executor": "onnxruntime",
                    "options": {"path": f"{name}.onnx"},
                    "batching": batching,
                }
                for name in ("types", "sums")
            ),
            {
                "name": "totals",
                "executor": "onnxruntime",
                "options": {"path": "totals.onnx"},
                "sequence": {"state": [{"input": "BEFORE", "output": "AFTER"}]},
            },
            {
                "name": "whole",
                "executor": "onnxruntime",
                "options": {"path": "whole.onnx"},
                "batching": {"policy": "fixed", "max_batch_size": 0},
            },
        ]
    }


@pytest.fixture(scope="session", params=TRANSPORTS)
def triton_server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton")
    save_types(folder / "types.onnx")
    save_sums(folder / "sums.onnx")
    save_totals(folder / "totals.onnx")
    save_whole(folder / "whole.onnx")
    save_repository(folder / "repository")
    admin = f"unix:{folder}/admin.sock"
    section = {"admin": [admin], "transport": request.param}
    models = {"path": "repository", "control": "explicit"}
    document = config() | {"server": section, "model_repository": models}
    with ServerProcess(document, folder=folder) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="session")
def client_report(triton_server, tritonclient_python):
    """A function from a client's name to what it printed: check -> result. Runs each once."""
    reports = {}

    def report(name, address=triton_server.grpc, *arguments):
        if name not in reports:
            done = subprocess.run(
                [tritonclient_python, CLIENTS / f"{name}.py", address, *arguments],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{done.stderr}\n{triton_server.log()}"
            reports[name] = json.loads(done.stdout)
        return reports[name]

    return report


@pytest.fixture(autouse=True)
def server_log(triton_server):
    """Shown with the tests that failed."""
    before = len(triton_server.log())
    yield
    print(triton_server.log()[before:])  # noqa: T201  # pytest shows it for tests that failed
