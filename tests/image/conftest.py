"""Images that are built once for all tests; where that is impossible, the tests skip with the reason."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "tools")]

import build_image  # noqa: E402  # it is in the folder above


@pytest.fixture(scope="session")
def built():
    """A function from a variant to the name of its image, built by now."""
    if reason := build_image.missing():
        pytest.skip(reason)
    made = {}

    def build(variant):
        if variant not in made:
            made[variant] = build_image.build(variant)
        return made[variant]

    return build


@pytest.fixture(scope="session", params=["slim", "cpu"])
def image(request, built):
    """Each variant that is built for every run of the tests."""
    return built(request.param)


@pytest.fixture(scope="session")
def files(image):
    """The root file system of the image."""
    with build_image.mounted(image) as root:
        yield root
