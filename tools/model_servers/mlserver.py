"""MLServer, with an inference runtime of our own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from environments import interpreter

from model_servers.process import HOST, ModelServer, free_ports

RUNTIME: Final = Path(__file__).parent / "models" / "mlserver" / "double.py"


class MLServer(ModelServer):
    """MLServer with the model `double`.

    `batching` are its own keys for adaptive batching, which is off by default; `workers` its
    inference processes beside the one that listens. Raises `CannotMakeError` where it cannot run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        base_s: float = 0.0,
        per_row_s: float = 0.0,
        batching: dict[str, Any] | None = None,
        workers: int = 0,
        ports: Sequence[int] | None = None,
    ) -> None:
        python = interpreter("mlserver")
        grpc, rest = ports or free_ports(2)
        self.grpc = f"{HOST}:{grpc}"
        """Its gRPC listener."""
        model = folder / "double"
        model.mkdir(parents=True, exist_ok=True)
        shutil.copy(RUNTIME, model / "double_runtime.py")
        _write(
            model / "model-settings.json",
            {
                "name": "double",
                "implementation": "double_runtime.Double",
                "platform": "emulated",
                "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 16]}],
                "outputs": [
                    {"name": "Y", "datatype": "FP32", "shape": [-1, 16]},
                    {"name": "BATCH", "datatype": "INT32", "shape": [-1, 1]},
                ],
                "parameters": {
                    "version": "1",
                    "extra": {"base_s": base_s, "per_row_s": per_row_s},
                },
                **(batching or {}),
            },
        )
        _write(
            folder / "settings.json",
            {
                "debug": False,
                "host": HOST,
                "grpc_port": grpc,
                "http_port": rest,
                "metrics_endpoint": None,
                "parallel_workers": workers,
            },
        )
        super().__init__(
            [python.with_name("mlserver"), "start", folder],
            folder,
            http=f"{HOST}:{rest}",
            ready_paths=["/v2/health/ready", "/v2/models/double/ready"],
            environ={"PYTHONDONTWRITEBYTECODE": "1"},
        )


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2))
