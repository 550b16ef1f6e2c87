"""Images that are built once for all tests; where that is impossible, the tests skip with the reason."""

import json
import sys
from pathlib import Path

import grpc
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "tools")]

import build_image  # noqa: E402  # it is in the folder above

from batcher import protocol  # noqa: E402
from batcher.testing.server import free_address  # noqa: E402


@pytest.fixture(scope="session")
def built():
    """A function from a variant to the name of its image, built by now."""
    if reason := build_image.missing():
        pytest.skip(reason)
    try:
        build_image.make_base()
    except build_image.CannotBuildError as error:
        pytest.skip(f"no base for images: {error}")
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


@pytest.fixture
def configured(tmp_path):
    """A function from a model to (folder with its configuration, gRPC address, HTTP address)."""
    tmp_path.chmod(0o755)

    def configure(**model):
        data, web = free_address(), free_address()
        server = {"grpc": [data], "http": web, "drain_delay": 0}
        document = {"server": server, "models": [{"name": "tested", **model}]}
        (tmp_path / "config.yaml").write_text(json.dumps(document))
        return tmp_path, data, web

    return configure


@pytest.fixture
def stub():
    """A function from an address to what calls its inference service."""
    channels = []

    def dial(address):
        channels.append(grpc.insecure_channel(address))
        return protocol.Stub(channels[-1], protocol.INFERENCE)

    yield dial
    for channel in channels:
        channel.close()
