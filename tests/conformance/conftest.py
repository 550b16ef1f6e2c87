"""Environments of their own for other people's clients."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import environments


@pytest.fixture(scope="session")
def tritonclient_python() -> Path:
    """A Python interpreter with tritonclient (and so protobuf 6) beside this project.

    Skips where nothing can be installed; requirements that contradict each other fail.
    """
    try:
        return environments.interpreter("tritonclient")
    except environments.CannotMakeError as error:
        if error.conflict:
            pytest.fail(str(error))
        pytest.skip(str(error))
