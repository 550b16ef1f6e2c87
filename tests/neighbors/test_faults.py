"""Neighbors are killed, suspended, restarted and slow under load. What must hold: `faults.py`.

bench/neighbors plays ten times as many rounds.
"""

import asyncio
import functools
from contextlib import ExitStack

import faults
import model_servers
import pytest
from conftest import BATCH_S, running, served

pytestmark = [pytest.mark.neighbors, pytest.mark.slow]


def rounds(count, kinds=faults.KINDS):
    """A test for each of so many faults."""
    played = list(enumerate(faults.rounds(count, kinds)))
    ids = [f"{number}-{fault}" for number, fault in played]
    return pytest.mark.parametrize(("number", "fault"), played, ids=ids)


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


def play(neighbor, front, fault, number):
    before = len(front.log())
    played = asyncio.run(faults.play(front.grpc, neighbor, fault, first=1000 * number))
    wrong = played.wrong()
    assert not wrong, "\n".join(
        [
            f"{len(wrong)} things are wrong; {played.statuses}",
            *wrong[:12],
            front.log()[before:],
            neighbor.log()[-2000:],
        ]
    )


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
