"""Another batcher as a neighbor."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model_servers.process import HOST, ModelServer, free_ports


class Batcher(ModelServer):
    """batcher with the model `double` on the executor `emulated`, which knows no slow answers."""

    def __init__(
        self,
        folder: Path,
        *,
        base_s: float = 0.0,
        per_row_s: float = 0.0,
        ports: Sequence[int] | None = None,
    ) -> None:
        grpc, rest = ports or free_ports(2)
        self.grpc = f"{HOST}:{grpc}"
        """Its gRPC listener."""
        config = folder / "batcher.yaml"
        config.write_text(
            json.dumps(
                {
                    "server": {"grpc": [self.grpc], "http": f"{HOST}:{rest}"},
                    "models": [
                        {
                            "name": "double",
                            "executor": "emulated",
                            "options": {
                                "base": f"{base_s * 1e6:.0f}us",
                                "per_row": f"{per_row_s * 1e6:.0f}us",
                            },
                            "batching": {"target_p99": "200ms"},
                        }
                    ],
                },
                indent=2,
            )
        )
        super().__init__(
            [sys.executable, "-m", "batcher", "serve", config],
            folder,
            http=f"{HOST}:{rest}",
            ready_paths=["/readyz"],
        )
