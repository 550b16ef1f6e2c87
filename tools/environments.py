"""Environments of their own for other people's programs: servers, clients, other servers to compare.

    python tools/environments.py triton torchserve

makes `.venv-triton` and `.venv-torchserve` in `$BATCHER_ENVIRONMENTS` (by default the repository's
root) and prints the interpreter of each. One that already holds what it should is left alone; one
that was made for other requirements or another Python is made again. Two processes that want the
same one wait for each other. Without names it lists those it knows.

Where one cannot be made the reason is printed on standard error and the exit code is 1. In Python:
`interpreter(name)`, which raises `CannotMakeError`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "BATCHER_ENVIRONMENTS"
STAMP = "installed.txt"

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    # Triton's client beside this project's own dependencies, so that both load in one process.
    "tritonclient": ("tritonclient[grpc]>=2.51",),
    # The wheel holds a real tritonserver and its Python backend, which imports from this environment.
    "triton": ("nvidia-pytriton==0.7.0",),
    # setuptools: its workers import pkg_resources, which later ones lack.
    "torchserve": (
        "torchserve==0.12.0",
        "torch-model-archiver==0.12.0",
        "torch==2.13.0",
        "safetensors==0.8.0",
        "numpy",
        "pyyaml",
        "setuptools<81",
    ),
    # uvloop: its processes for inference ask for a current event loop, which later ones do not make.
    "mlserver": ("mlserver==1.7.1", "uvloop<0.22"),
    # Drives Debian's Chromium; a browser of its own is not downloaded.
    "playwright": ("playwright>=1.49",),
    # Grafana's own classes of dashboards and panels, of its oldest and newest version that has them.
    "grafana-10": ("grafana-foundation-sdk==1769699998!10.1.0",),
    "grafana-11": ("grafana-foundation-sdk==1769699379!11.6.0",),
    # Kubernetes' own schemas, of each version, and what checks manifests against them.
    "kubernetes": ("kubernetes-validate==1.37.0",),
    "kserve": ("kserve==0.21.0",),
    "ray-serve": ("ray[serve]==2.60.0", "numpy"),
    "bentoml": ("bentoml==1.4.40", "numpy"),
    "litserve": ("litserve==0.2.19", "numpy"),
}
"""What each environment holds."""

WITH_PROJECT = ("tritonclient",)
"""These also hold all that this project needs to run."""


class CannotMakeError(Exception):
    """The environment cannot be made here; the message says why.

    `conflict`: the requirements contradict each other, which no other machine would mend.
    """

    def __init__(self, message: str, *, conflict: bool = False) -> None:
        super().__init__(message)
        self.conflict = conflict


def requirements(name: str) -> list[str]:
    """What the environment should hold, as pip reads it."""
    wanted = list(REQUIREMENTS[name])
    if name in WITH_PROJECT:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted += project["dependencies"]
    return wanted


def folder(name: str) -> Path:
    """Where the environment is, or would be."""
    return Path(os.environ.get(FOLDER) or ROOT).resolve() / f".venv-{name}"


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """Only one process at a time is inside, for one environment."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_name(f"{place.name}.lock").open("w")
    except OSError as error:
        raise CannotMakeError(f"cannot write to {place.parent}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
        yield


def install(place: Path, wanted: list[str]) -> None:
    """Make the environment anew. Raises `CannotMakeError` with the last lines of what pip said."""
    venv.create(place, clear=True, with_pip=True, symlinks=True)
    done = subprocess.run(
        [place / "bin" / "python", "-m", "pip", "install", "--quiet", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise CannotMakeError(
            f"cannot install {', '.join(wanted)}:\n{said}",
            conflict="ResolutionImpossible" in done.stderr,
        )


def interpreter(name: str) -> Path:
    """The Python of an environment, which is made first if it is not there or out of date.

    Raises `CannotMakeError` where nothing can be installed, or not these requirements.
    """
    if name not in REQUIREMENTS:
        raise CannotMakeError(f"unknown environment {name!r}; known: {', '.join(REQUIREMENTS)}")
    place, wanted = folder(name), requirements(name)
    stamp, content = place / STAMP, "\n".join([sys.version, *wanted])
    with locked(place):
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != content:
            install(place, wanted)
            stamp.write_text(content, encoding="utf-8")
    return place / "bin" / "python"


def main(names: list[str]) -> int:
    """Make and report."""
    if not names:
        print("\n".join(REQUIREMENTS))
        return 0
    failed = False
    for name in names:
        try:
            print(interpreter(name), flush=True)
        except CannotMakeError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
