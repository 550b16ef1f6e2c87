"""The servers: how each is started with given settings, and which settings are tried.

Every one has the device of `backends/emulated_device.py` behind it and batches of at most 32 rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulated import config as batcher_config
from processes import free_port
from questions import Http, Protocol, open_inference, torchserve

BACKENDS = Path(__file__).resolve().parent / "backends"
ROWS = 32
MODEL = "doubling"

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Started:
    """What to run, and where it answers."""

    command: Sequence[str | Path]
    environ: Mapping[str, str]
    port: int


@dataclass(frozen=True, slots=True)
class Server:
    """One that is measured."""

    name: str
    title: str
    environment: str | None
    """The one of `tools/environments.py`; None for this project's own."""
    package: str
    """Whose version is the server's."""
    transport: str
    protocol: Protocol
    start: Callable[[Settings, Path, Path], Started]
    """From settings, its environment's Python and an empty folder."""
    defaults: Settings
    stages: Sequence[Sequence[Settings]]
    """What is changed of the best so far, stage by stage; what holds the highest rate is kept."""
    overload: Sequence[Settings]
    """The same for what decides who is refused, judged by what is in time under 1.5 times the load."""
    pages: str
    """Its documentation's pages that advise these settings."""


def _batcher(settings: Settings, python: Path, folder: Path) -> Started:
    port = free_port()
    document = batcher_config("builtin")
    document["server"] |= {"grpc": [f"127.0.0.1:{port}"], "http": None, "drain_delay": 0}
    document["models"][0]["name"] = MODEL
    document["models"][0]["batching"] |= {k: v for k, v in settings.items() if v is not None}
    file = folder / "batcher.yaml"
    file.write_text(json.dumps(document))
    return Started([python, "-m", "batcher", "serve", file], {}, port)


TRITON_CONFIG = """
name: "{model}"
backend: "python"
max_batch_size: {rows}
input [{{ name: "X", data_type: TYPE_FP32, dims: [16] }}]
output [{{ name: "Y", data_type: TYPE_FP32, dims: [16] }}]
instance_group [{{ kind: KIND_CPU, count: {instances} }}]
dynamic_batching {{ {batching} }}
"""


def _triton(settings: Settings, python: Path, folder: Path) -> Started:
    site = next((python.parent.parent / "lib").glob("python3.*")) / "site-packages"
    distribution = site / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    stub = distribution / "python_backend_stubs" / version / "triton_python_backend_stub"
    for file in (*(distribution / "backends" / "python").iterdir(), stub):
        (backend / file.name).symlink_to(file)
    model = folder / "models" / MODEL
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").symlink_to(BACKENDS / "triton_model.py")
    (model / "1" / "emulated_device.py").symlink_to(BACKENDS / "emulated_device.py")
    batching = []
    if settings["delay_us"]:
        batching.append(f"max_queue_delay_microseconds: {settings['delay_us']}")
    if settings["timeout_us"]:
        batching.append(
            "default_queue_policy { timeout_action: REJECT "
            f"default_timeout_microseconds: {settings['timeout_us']} }}"
        )
    (model / "config.pbtxt").write_text(
        TRITON_CONFIG.format(
            model=MODEL, rows=ROWS, instances=settings["instances"], batching=" ".join(batching)
        )
    )
    port = free_port()
    command = [
        distribution / "bin" / "tritonserver",
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
    ]
    environ = {
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        "PATH": f"{python.parent}:/usr/bin:/bin",
    }
    return Started(command, environ, port)


def _torchserve(settings: Settings, python: Path, folder: Path) -> Started:
    store = folder / "store"
    model = store / MODEL
    (model / "MAR-INF").mkdir(parents=True)
    (model / "MAR-INF" / "MANIFEST.json").write_text(
        json.dumps(
            {
                "runtime": "python",
                "model": {
                    "modelName": MODEL,
                    "modelVersion": "1.0",
                    "handler": "torchserve_handler.py",
                },
                "archiverVersion": "0.12.0",
            }
        )
    )
    for file in ("torchserve_handler.py", "emulated_device.py"):
        (model / file).write_text((BACKENDS / file).read_text())
    port = free_port()
    served = {
        MODEL: {
            "1.0": {
                "defaultVersion": True,
                "marName": MODEL,
                "minWorkers": settings["workers"],
                "maxWorkers": settings["workers"],
                "batchSize": ROWS,
                "maxBatchDelay": settings["delay_ms"],
                "responseTimeout": 120,
            }
        }
    }
    properties = {
        "inference_address": f"http://127.0.0.1:{free_port()}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_inference_port": port,
        "grpc_management_address": "127.0.0.1",
        "grpc_management_port": free_port(),
        "model_store": store,
        "load_models": MODEL,
        "models": json.dumps(served),
        "job_queue_size": settings["queue"],
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "async_logging": "true",
    }
    file = folder / "config.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    command = [
        python.parent / "torchserve",
        "--start",
        "--foreground",
        "--ncs",
        "--disable-token-auth",
        f"--ts-config={file}",
    ]
    environ = {
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "metrics"),
        "TEMP": str(folder),
    }
    return Started(command, environ, port)


def _mlserver(settings: Settings, python: Path, folder: Path) -> Started:
    port = free_port()
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": free_port(),
                "grpc_port": port,
                "metrics_port": free_port(),
                "metrics_dir": str(folder),
                "parallel_workers": settings["parallel_workers"],
                "debug": False,
            }
        )
    )
    (folder / "model-settings.json").write_text(
        json.dumps(
            {
                "name": MODEL,
                "implementation": "mlserver_runtime.Doubling",
                "max_batch_size": ROWS,
                "max_batch_time": settings["time_s"],
            }
        )
    )
    return Started(
        [python.parent / "mlserver", "start", folder],
        {"PYTHONPATH": str(BACKENDS), "PATH": f"{python.parent}:/usr/bin:/bin"},
        port,
    )


def _ray(settings: Settings, python: Path, folder: Path) -> Started:
    port = free_port()
    given = {**settings, "rows": ROWS, "port": port, "folder": str(folder / "ray"), "replicas": 1}
    environ = {
        "PYTHONPATH": str(BACKENDS),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": str(int(given["throughput"])),
        "RAY_SERVE_ENABLE_HA_PROXY": str(int(given["throughput"])),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    return Started([python, BACKENDS / "ray_app.py", json.dumps(given)], environ, port)


def _bentoml(settings: Settings, python: Path, folder: Path) -> Started:
    port = free_port()
    environ = {
        "PYTHONPATH": str(BACKENDS),
        "BATCHER_PEERS_SETTINGS": json.dumps({**settings, "rows": ROWS}),
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    command = [
        *(python.parent / "bentoml", "serve", "bento_service:Doubling"),
        *("--working-dir", BACKENDS, "--host", "127.0.0.1", "--port", str(port)),
    ]
    return Started(command, environ, port)


def _litserve(settings: Settings, python: Path, folder: Path) -> Started:
    del folder
    port = free_port()
    given = json.dumps({**settings, "rows": ROWS, "port": port})
    environ = {"PYTHONPATH": str(BACKENDS)}
    return Started([python, BACKENDS / "litserve_app.py", given], environ, port)


SERVERS = (
    Server(
        "batcher",
        "batcher",
        None,
        "batcher-serve",
        "gRPC",
        open_inference(MODEL),
        _batcher,
        {"limit": None},
        [[{}]],
        [{"limit": "target"}],
        "docs/running.md (the target, overload)",
    ),
    Server(
        "triton",
        "Triton",
        "triton",
        "nvidia-pytriton",
        "gRPC",
        open_inference(MODEL),
        _triton,
        {"delay_us": 0, "instances": 1, "timeout_us": 0},
        [
            [{}, {"delay_us": 2000}, {"delay_us": 5000}, {"delay_us": 10000}, {"delay_us": 20000}],
            [{"instances": 2}],
        ],
        [{"timeout_us": 20000}, {"timeout_us": 26000}],
        '"Batchers" (Recommended Configuration Process, Queue Policy), "Model Configuration" (Instance Groups)',
    ),
    Server(
        "torchserve",
        "TorchServe",
        "torchserve",
        "torchserve",
        "gRPC",
        torchserve(MODEL),
        _torchserve,
        {"delay_ms": 5, "workers": 1, "queue": 100},
        [[{"delay_ms": 1}, {}, {"delay_ms": 10}, {"delay_ms": 20}], [{"workers": 2}]],
        [{"queue": 32}, {"queue": 64}],
        '"Batch Inference with TorchServe", "Performance Guide", "Advanced configuration"',
    ),
    Server(
        "mlserver",
        "MLServer",
        "mlserver",
        "mlserver",
        "gRPC",
        open_inference(MODEL),
        _mlserver,
        {"time_s": 0.005, "parallel_workers": 0},
        [
            [{"time_s": 0.001}, {}, {"time_s": 0.01}, {"time_s": 0.02}],
            [{"parallel_workers": 1}],
        ],
        [],
        '"Adaptive Batching", "Parallel Inference"',
    ),
    Server(
        "ray",
        "Ray Serve",
        "ray-serve",
        "ray",
        "HTTP",
        Http("/", b'{"x": [%s]}'),
        _ray,
        {"wait_s": 0.005, "batches": 1, "ongoing": 128, "queued": -1, "throughput": True},
        [[{}, {"wait_s": 0.0}, {"wait_s": 0.01}], [{"batches": 2}], [{"throughput": False}]],
        [{"queued": 32}],
        '"Dynamic Request Batching", "Performance Tuning", "Configure Ray Serve deployments"',
    ),
    Server(
        "bentoml",
        "BentoML",
        "bentoml",
        "bentoml",
        "HTTP",
        Http("/predict", b'{"x": [[%s]]}'),
        _bentoml,
        {"latency_ms": 1000, "workers": 1, "threads": 1},
        [[{"latency_ms": 50}, {"latency_ms": 100}, {}], [{"threads": 4}], [{"workers": 2}]],
        [],
        '"Adaptive batching", "Parallelize requests handling", "Concurrency"',
    ),
    Server(
        "litserve",
        "LitServe",
        "litserve",
        "litserve",
        "HTTP",
        Http("/predict", b'{"x": [%s]}'),
        _litserve,
        {"wait_s": 0.005, "workers": 1, "fast_queue": False},
        [
            [{"wait_s": 0.0}, {}, {"wait_s": 0.01}, {"wait_s": 0.02}],
            [{"fast_queue": True}],
            [{"workers": 2}],
        ],
        [],
        '"Batching", "LitServer" (workers_per_device, fast_queue)',
    ),
)
"""This project's first, then the others."""
