"""Write the requirements of the container images, pinned with hashes: `deploy/image/requirements/*.txt`.

    pip install uv
    python tools/lock_image.py            # everything as it is, and what pyproject.toml has gained
    python tools/lock_image.py --upgrade  # the newest of everything

Each file is resolved from the dependencies and extras that the projects declare, for the image's
Python on Linux; the projects themselves are left out, their wheels are built with the image. Needs
`uv` on the PATH and PyPI.
"""

from __future__ import annotations

import argparse
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "deploy" / "image" / "requirements"

PYTHON: Final = "3.13"
"""The minor version of the image's Python: `PYTHON_IMAGE` of the Dockerfile."""

PLATFORM: Final = "x86_64-manylinux_2_28"
"""The oldest system that wheels are picked for. ONNX Runtime's are made for it."""

SERVER: Final = (".", ("http", "scaler", "tracing"))
ONNX_RUNTIME: Final = "plugins/onnxruntime"

PROJECTS: Final[dict[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    "slim": (SERVER,),
    "cpu": (SERVER, (ONNX_RUNTIME, ("cpu",))),
    "cuda": ((".", ("http", "nvml", "scaler", "tracing")), (ONNX_RUNTIME, ("gpu",))),
}
"""Variant of the image -> folders of projects, and the extras of each."""

OWN: Final = {"slim": (), "cpu": (), "cuda": ("onnxruntime-gpu[cuda,cudnn]",)}
"""What a variant needs beyond what the projects declare: the libraries of CUDA, as wheels."""

BUILD: Final = ("pip>=25.1",)
"""What builds wheels and installs them, beside the build backend that the projects name."""


def document(folder: str) -> dict[str, Any]:
    """The `pyproject.toml` of a project."""
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


def declared(variant: str) -> Iterator[str]:
    """The requirements of a variant as the projects declare them, without the projects."""
    if variant == "build":
        yield from document(".")["build-system"]["requires"]
        yield from BUILD
        return
    for folder, extras in PROJECTS[variant]:
        project = document(folder)["project"]
        yield from (r for r in project["dependencies"] if not r.startswith("batcher-serve"))
        for extra in extras:
            yield from project["optional-dependencies"][extra]
    yield from OWN[variant]


def lock(variant: str, options: list[str]) -> None:
    """Resolve the requirements of a variant into its file."""
    target = FOLDER / f"{variant}.txt"
    subprocess.run(
        [
            *("uv", "pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate"),
            *("--generate-hashes", "--only-binary", ":all:"),
            *("--python-version", PYTHON, "--python-platform", PLATFORM),
            *("--default-index", "https://pypi.org/simple"),
            *options,
            *("--output-file", str(target), "-"),
        ],
        input="\n".join(declared(variant)),
        text=True,
        check=True,
    )
    print(target.relative_to(ROOT))


def main() -> None:
    """Lock each variant, and what builds the wheels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    options = ["--upgrade"] if parser.parse_args().upgrade else []
    FOLDER.mkdir(parents=True, exist_ok=True)
    for variant in (*PROJECTS, "build"):
        lock(variant, options)


if __name__ == "__main__":
    main()
