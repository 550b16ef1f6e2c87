import pytest

from . import fake


@pytest.fixture
def server():
    made = fake.TorchServe()
    yield made
    made.stop()


@pytest.fixture
def given(server):
    """Options that load the model of the server."""
    return {
        "url": server.url,
        "management_url": server.url,
        "inputs": [fake.X],
        "outputs": [fake.Y, fake.N],
        "connect_timeout": "10s",
    }
