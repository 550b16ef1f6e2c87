"""Triton Inference Server: the real binary, with models of its Python backend."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from environments import CannotMakeError, interpreter

from model_servers.process import HOST, ModelServer, free_ports

MODELS: Final = Path(__file__).parent / "models" / "triton"
SHARED_MEMORY: Final = Path("/dev/shm")


class Triton(ModelServer):
    """Triton with `models` (name -> extra lines of `config.pbtxt`); all of `MODELS` by default.

    `double` has the parameters `base` and `per_row` in seconds. `options` are more words of the
    command line. Raises `CannotMakeError` where it cannot run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        models: Mapping[str, str] | None = None,
        base_s: float = 0.0,
        per_row_s: float = 0.0,
        options: Sequence[str] = (),
        ports: Sequence[int] | None = None,
    ) -> None:
        python = interpreter("triton")
        packages = next(python.parent.parent.glob("lib/python3*/site-packages"))
        self.repository = folder / "models"
        """Its model repository."""
        extra = dict.fromkeys((path.name for path in MODELS.iterdir()), "")
        for name, lines in (extra if models is None else models).items():
            place = self.repository / name
            shutil.copytree(MODELS / name, place, dirs_exist_ok=True)
            with (place / "config.pbtxt").open("a") as config:
                config.write(lines)
        grpc, rest = ports or free_ports(2)
        self.grpc = f"{HOST}:{grpc}"
        """Its gRPC listener."""
        self._prefix = f"batcher-{uuid.uuid4().hex[:12]}"
        words = [
            f"--model-repository={self.repository}",
            f"--backend-directory={backends(folder, packages)}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            *(f"--grpc-{key}={value}" for key, value in (("address", HOST), ("port", grpc))),
            *(f"--http-{key}={value}" for key, value in (("address", HOST), ("port", rest))),
            "--allow-metrics=false",
            *options,
        ]
        super().__init__(
            [packages / "pytriton" / "tritonserver" / "bin" / "tritonserver", *words],
            folder,
            http=f"{HOST}:{rest}",
            ready_paths=["/v2/health/ready"],
            environ={
                "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{python_library()}",
                "PATH": f"{python.parent}:/usr/bin:/bin",
                "MODEL_SERVER_TIMES": f"{base_s} {per_row_s}",
            },
        )

    def left_behind(self) -> None:
        """Remove the shared memory of its Python processes."""
        for region in SHARED_MEMORY.glob(f"{self._prefix}*"):
            region.unlink(missing_ok=True)


def backends(folder: Path, packages: Path) -> Path:
    """A backend directory with the Python backend and its process for this version of Python."""
    source = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = source / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise CannotMakeError(f"this Triton has no Python backend for Python {version}")
    place = folder / "backends" / "python"
    shutil.copytree(source / "backends" / "python", place, dirs_exist_ok=True)
    shutil.copy(stub, place)
    return place.parent


def python_library() -> Path:
    """The folder of Python's shared library, which the Python backend loads."""
    folder = Path(str(sysconfig.get_config_var("LIBDIR")))
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    if not (folder / name).exists():
        raise CannotMakeError(f"Triton's Python backend needs {name}, which is not in {folder}")
    return folder
