"""Faults played as tests: a test for each, and what it says when something did not hold."""

import asyncio

import neighbor_faults as faults
import pytest


def rounds(count, kinds=faults.KINDS):
    """A test for each of so many faults."""
    played = list(enumerate(faults.rounds(count, kinds)))
    ids = [f"{number}-{fault}" for number, fault in played]
    return pytest.mark.parametrize(("number", "fault"), played, ids=ids)


def play(neighbor, front, fault, number):
    """Play one round at the server `front` before `neighbor`. Fails with what did not hold."""
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
