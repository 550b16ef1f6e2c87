"""Neighbors are killed, suspended, restarted and slow under load. What must hold: `bench/neighbors/neighbor_faults.py`.

bench/neighbors plays ten times as many rounds.
"""

import functools
from contextlib import ExitStack

import model_servers
import neighbor_faults as faults
import pytest
from pairs import BATCH_S, running, served
from played import play, rounds

pytestmark = [pytest.mark.neighbors, pytest.mark.slow]


@pytest.fixture(scope="module")
def behind(start, tmp_path_factory):
    """A function that starts a neighbor, if it is the first time, and batcher in front of it."""
    with ExitStack() as stack:

        @functools.cache
        def behind(make, executor):
            folder = tmp_path_factory.mktemp(make.__name__.lower())
            neighbor = stack.enter_context(running(make, folder, **BATCH_S))
            options = {"url": neighbor.grpc}
            return neighbor, start(served("double", executor, options, max_in_flight=2))

        yield behind


@rounds(20)
def test_triton(behind, number, fault):
    play(*behind(model_servers.Triton, "kserve"), fault, number)


@rounds(5)
def test_mlserver(behind, number, fault):
    play(*behind(model_servers.MLServer, "kserve"), fault, number)


@rounds(4, faults.KINDS[:4])
def test_another_batcher(behind, number, fault):
    """The executor of its model knows no slow answers."""
    play(*behind(model_servers.Batcher, "kserve"), fault, number)
