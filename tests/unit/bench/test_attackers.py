"""Every attack finds a server, and ends by itself."""

import time
from collections import Counter

import pytest
from attack import config
from attackers import ATTACKS
from mixed import mixed
from sending import Target

from batcher.testing.server import ServerProcess


@pytest.fixture(scope="module")
def server():
    document = config("builtin")
    for model in document["models"]:
        model["warmup"] = {"batch_sizes": []}
    with ServerProcess(document) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("attack", [*ATTACKS.values(), mixed], ids=lambda each: each.__name__)
async def test_it_connects_and_ends(server, attack):
    target = Target(server.grpc, server.http, 0.2)
    assert isinstance(await attack(target, time.monotonic() + target.seconds), Counter)
    assert server.process.poll() is None
