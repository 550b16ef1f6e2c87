"""Build the container images without a registry and without a Docker engine: for tests.

    python tools/build_image.py cpu slim

`mmdebstrap` makes a root file system of the Debian release that the official Python images are made
of, with Debian's own Python of the same minor version; `buildah` takes it as `PYTHON_IMAGE` and runs
the Dockerfile with chroot isolation. Everything is kept in `.cache/image`; the base is made once.

Needs root, and Debian's packages buildah and mmdebstrap. Exits with 1 and the reason where an image
cannot be built.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / ".cache" / "image"
VARIANTS: Final = ("slim", "cpu", "cuda")

RELEASE: Final = "trixie"
"""The Debian release of the base, as in the name of the Dockerfile's default."""

MIRROR: Final = "http://deb.debian.org/debian"
BASE: Final = f"localhost/python:{RELEASE}"

OF_THIS_MACHINE: Final = ("/etc/ssl/certs", "/etc/pip.conf")
"""What the network asks of this machine; a build sees it, no image has it."""


class CannotBuildError(Exception):
    """There is no image; the message says why."""


def missing() -> str:
    """Why no image can be built here; empty if one can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    return f"needs {' and '.join(absent)}" if absent else ""


def run(*command: str, folder: Path = ROOT) -> str:
    """The output of a command. Raises `CannotBuildError` with the last lines if it fails."""
    try:
        return subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=1800
        ).stdout.strip()
    except subprocess.CalledProcessError as error:
        words = "\n".join((error.stdout + error.stderr).strip().splitlines()[-25:])
        raise CannotBuildError(f"{' '.join(command)}:\n{words}") from error
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise CannotBuildError(str(error)) from error


def buildah(*arguments: str) -> str:
    """Run buildah over a storage of our own: images of this machine's user are not touched."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    places = ("--root", str(FOLDER / "storage"), "--runroot", str(FOLDER / "run"))
    return run("buildah", *places, *arguments)


def exists(image: str) -> bool:
    """Whether there is such an image."""
    return image in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()


def make_base() -> None:
    """Make the image that stands for the official Python image, if it is not there."""
    if exists(BASE):
        return
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        archive = Path(name, "root.tar")
        run(
            *("mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"),
            "--include=ca-certificates,python3,python3-venv",
            *(RELEASE, str(archive), MIRROR),
        )
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(archive), "/")
        # As the official image has it.
        path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        buildah("config", "--env", path, container)
        buildah("commit", "--quiet", "--rm", container, BASE)


def build(variant: str, dockerfile: Path | None = None, *options: str) -> str:
    """Build a variant, or another Dockerfile under that name; returns the image's name.

    The context of another Dockerfile is its folder. Raises `CannotBuildError`.
    """
    make_base()
    image = f"localhost/batcher:{variant}"
    file = dockerfile or ROOT / "deploy" / "image" / "Dockerfile"
    volumes = [f"{path}:{path}:ro" for path in OF_THIS_MACHINE if Path(path).exists()]
    buildah(
        *("bud", "--quiet", "--layers", "--isolation", "chroot", "--network", "host"),
        *(f"--volume={volume}" for volume in volumes),
        *(() if dockerfile else ("--target", variant)),
        *("--build-arg", f"PYTHON_IMAGE={BASE}", *options),
        *("--tag", image, "--file", str(file)),
        str(dockerfile.parent if dockerfile else ROOT),
    )
    return image


def configuration(image: str) -> dict[str, Any]:
    """What an image says about its processes: `Entrypoint`, `Cmd`, `Env`, `User`, `Labels`, ..."""
    inspected: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))
    configured: dict[str, Any] = inspected["OCIv1"]["config"]
    return configured


def runtime() -> str:
    """The path of `runc`: this machine's, or Debian's, downloaded and not installed.

    Installed it would take the place of others that bring one of their own, as Docker's packages do.
    """
    installed, fetched = shutil.which("runc"), FOLDER / "runc" / "usr" / "sbin" / "runc"
    if installed is None and not fetched.exists():
        with tempfile.TemporaryDirectory(dir=FOLDER) as name:
            run("apt-get", "download", "runc", folder=Path(name))
            run("dpkg-deb", "-x", str(next(Path(name).glob("*.deb"))), str(FOLDER / "runc"))
    return installed or str(fetched)


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root file system of an image, for as long as the context lasts."""
    container = buildah("from", image)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def main() -> int:
    """Build the variants that were asked for, and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", nargs="*", default=["cpu"], help=f"of {', '.join(VARIANTS)}")
    variants = parser.parse_args().variant
    if reason := missing():
        print(f"error: no image: {reason}", file=sys.stderr)
        return 1
    try:
        for variant in variants:
            build(variant)
        print(buildah("images"))
    except CannotBuildError as error:
        print(f"error: no image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
