"""How the health of a neighbor is followed."""

import asyncio

from batcher.executors.remote.watching import NeighborWatch


class Neighbor:
    """Answers questions as scripted, and then waits to be asked no more."""

    def __init__(self, asked, changed=()):
        self.asked, self.changed = list(asked), list(changed)
        self.questions = []
        self.done = asyncio.Event()

    async def ask(self):
        self.questions.append("ask")
        if not self.asked:
            self.done.set()
            await asyncio.Event().wait()
        return self._next(self.asked)

    async def has_changed(self):
        self.questions.append("changed")
        return self._next(self.changed)

    @staticmethod
    def _next(answers):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def follow(neighbor, *, doubt=False, recheck=100):
    """What was reported, and what `run` returned (None if it went on)."""
    watch = NeighborWatch(neighbor.ask, neighbor.has_changed, 0.0001, recheck)
    if doubt:
        watch.doubt()
    reports = []
    run = asyncio.ensure_future(watch.run(reports.append))
    done = asyncio.ensure_future(neighbor.done.wait())
    await asyncio.wait((run, done), return_when=asyncio.FIRST_COMPLETED)
    if run.done():
        done.cancel()
        return reports, run.result()
    run.cancel()
    return reports, None


async def test_every_answer_is_reported():
    neighbor = Neighbor(["", "not ready", ""], [""])
    assert await follow(neighbor) == (["", "not ready", ""], None)


async def test_whether_the_model_changed_is_asked_when_the_neighbor_is_back():
    neighbor = Neighbor(["", "gone", "gone", "", ""], ["another model"])
    assert await follow(neighbor) == (["", "gone", "gone"], "another model")
    assert neighbor.questions == ["ask", "ask", "ask", "ask", "changed"]


async def test_whether_the_model_changed_is_asked_after_a_doubt():
    assert await follow(Neighbor([""], ["another"]), doubt=True) == ([], "another")


async def test_whether_the_model_changed_is_asked_now_and_then():
    neighbor = Neighbor(["", "", ""], ["", "another"])
    assert await follow(neighbor, recheck=1) == ([""], "another")


async def test_what_is_raised_is_a_reason():
    neighbor = Neighbor([OSError("no"), "", ""], [ValueError("odd"), ""])
    assert await follow(neighbor) == (["OSError: no", "ValueError: odd", ""], None)
