"""Environments of their own for other people's clients."""

import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRITONCLIENT = "tritonclient[grpc]>=2.51"
STAMP = "installed.txt"


def requirements() -> list[str]:
    """What tritonclient's environment holds: it, and all that this project needs to run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [TRITONCLIENT, *project["dependencies"]]


def install(folder: Path, wanted: list[str]) -> None:
    """Make the environment anew. Skips the test where nothing can be installed."""
    venv.create(folder, clear=True, with_pip=True)
    done = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = f"cannot install {', '.join(wanted)}:\n{done.stderr}"
        if "ResolutionImpossible" in done.stderr:
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def tritonclient_python() -> Path:
    """A Python interpreter with tritonclient (and so protobuf 6) beside this project.

    The environment is kept in the repository's root until what it should hold changes.
    """
    folder = ROOT / ".venv-tritonclient"
    stamp = folder / STAMP
    wanted = requirements()
    content = "\n".join([sys.version, *wanted])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != content:
        install(folder, wanted)
        stamp.write_text(content, encoding="utf-8")
    return folder / "bin" / "python"
