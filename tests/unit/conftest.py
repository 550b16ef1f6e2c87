import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repository():
    """The folder of the repository."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tracked_files(repository):
    """The paths of the files that git tracks and that are there; skips outside a git checkout."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if done.returncode or not done.stdout:
        pytest.skip("not a git checkout")
    return [path for path in done.stdout.split("\0") if path and (repository / path).is_file()]
