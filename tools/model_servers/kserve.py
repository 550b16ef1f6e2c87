"""KServe's own model server, with a model of our own. It speaks both versions of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from environments import interpreter

from model_servers.process import HOST, ModelServer, free_ports

PROGRAM: Final = Path(__file__).parent / "models" / "kserve" / "double.py"


class KServe(ModelServer):
    """KServe's model server with the model `double`. Raises `CannotMakeError` where it cannot run."""

    def __init__(
        self,
        folder: Path,
        *,
        base_s: float = 0.0,
        per_row_s: float = 0.0,
        ports: Sequence[int] | None = None,
    ) -> None:
        python = interpreter("kserve")
        (rest,) = ports or free_ports(1)
        super().__init__(
            [python, PROGRAM, "--http_port", str(rest)],
            folder,
            http=f"{HOST}:{rest}",
            ready_paths=["/v2/health/ready", "/v2/models/double/ready"],
            environ={
                "MODEL_SERVER_TIMES": f"{base_s} {per_row_s}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
