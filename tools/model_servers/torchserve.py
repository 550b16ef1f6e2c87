"""TorchServe, with a handler of our own in an archive of its archiver."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

from environments import CannotMakeError, interpreter

from model_servers.process import HOST, READY_TIMEOUT_S, ModelServer, free_ports

HANDLER: Final = Path(__file__).parent / "models" / "torchserve" / "double.py"


class TorchServe(ModelServer):
    """TorchServe with the model `double`, one worker, without batching of its own.

    `batching` are keys of the model's own configuration: `batchSize`, `maxBatchDelay` (ms). With `tokens`
    it asks for those of `key_file`. Raises `CannotMakeError` where it cannot run, as without Java.
    """

    def __init__(
        self,
        folder: Path,
        *,
        base_s: float = 0.0,
        per_row_s: float = 0.0,
        batching: dict[str, Any] | None = None,
        tokens: bool = False,
        ports: Sequence[int] | None = None,
    ) -> None:
        if shutil.which("java") is None:
            raise CannotMakeError("TorchServe needs Java 17, and there is no program `java`")
        python = interpreter("torchserve")
        rest, management, metrics, grpc, grpc_management, worker = ports or free_ports(6)
        self.grpc = f"{HOST}:{grpc}"
        """Its gRPC listener for inference."""
        self.grpc_management = f"{HOST}:{grpc_management}"
        """Its gRPC listener for management."""
        self.management = f"{HOST}:{management}"
        """Its REST listener for management."""
        self.key_file = folder / "key_file.json"
        """Its tokens, if it has any."""
        store = folder / "store"
        store.mkdir(parents=True, exist_ok=True)
        for name in ("tmp", "logs"):
            (folder / name).mkdir(exist_ok=True)
        archive(python, folder, store, {"minWorkers": 1, "maxWorkers": 1, **(batching or {})})
        properties = {
            "inference_address": f"http://{HOST}:{rest}",
            "management_address": f"http://{HOST}:{management}",
            "metrics_address": f"http://{HOST}:{metrics}",
            "grpc_inference_address": HOST,
            "grpc_inference_port": grpc,
            "grpc_management_address": HOST,
            "grpc_management_port": grpc_management,
            "initial_worker_port": worker,
            "load_models": "double.mar",
            "model_store": store,
            "default_workers_per_model": 1,
            "disable_token_authorization": "false" if tokens else "true",
            "disable_system_metrics": "true",
            "vmargs": "-Xmx256m",
        }
        config = folder / "config.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        words = ["--start", "--foreground", "--ncs", "--model-store", store, "--ts-config", config]
        super().__init__(
            [python.with_name("torchserve"), *words],
            folder,
            http=f"{HOST}:{rest}",
            ready_paths=[] if tokens else ["/ping"],
            environ={
                "MODEL_SERVER_TIMES": f"{base_s} {per_row_s}",
                # Its number and its workers' sockets are files there, which two servers would share.
                "TEMP": str(folder / "tmp"),
                "TMPDIR": str(folder / "tmp"),
                "OMP_NUM_THREADS": "1",
            },
        )

    def ready(self) -> bool:
        """Whether the worker of its model is up, too, of which `/ping` says nothing."""
        if not super().ready():
            return False
        try:
            url, headers = f"http://{self.management}/models/double", {}
            if self.key_file.exists():
                token = json.loads(self.key_file.read_text())["management"]["key"]
                headers["Authorization"] = f"Bearer {token}"
            with urlopen(Request(url, headers=headers), timeout=READY_TIMEOUT_S) as got:
                workers = json.load(got)[0]["workers"]
        except (OSError, ValueError, LookupError):
            return False
        return bool(workers) and all(each["status"] == "READY" for each in workers)

    def main_pid(self) -> int:
        """The Java process, which the command that was started only waits for."""
        return int((self.folder / "tmp" / ".model_server.pid").read_text())


def archive(python: Path, folder: Path, store: Path, settings: dict[str, Any]) -> None:
    """Put `double.mar` into the store."""
    config = folder / "model.yaml"
    config.write_text(json.dumps(settings))
    done = subprocess.run(
        [
            *(python.with_name("torch-model-archiver"), "--model-name", "double"),
            *("--version", "1.0", "--handler", HANDLER, "--config-file", config),
            *("--export-path", store, "--force"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotMakeError(f"torch-model-archiver: {done.stderr.strip()}")
