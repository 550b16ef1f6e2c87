from __future__ import annotations

import asyncio
import json
import logging

import pytest

from batcher.web.live.feed import MAX_VIEWERS, Feed


class View:
    """Counts what is asked of it."""

    def __init__(self):
        self.samples = self.reads = self.histories_read = 0
        self.error = None

    def sample(self):
        if self.error:
            raise self.error
        self.samples += 1

    def now(self):
        self.reads += 1
        return {"sample": self.samples, "text": "a\nb"}

    def histories(self):
        self.histories_read += 1
        return [{"name": "m"}]


@pytest.fixture
def view():
    return View()


@pytest.fixture
def feed(view):
    return Feed(view, time=lambda: 0.0)


def parsed(event):
    kind, number, data, *rest = event.decode().split("\n")
    assert rest == ["", ""]
    assert (kind[:7], number[:4], data[:6]) == ("event: ", "id: ", "data: ")
    return kind[7:], int(number[4:]), json.loads(data[6:])


async def test_nothing_is_read_while_there_is_no_viewer(feed, view):
    for _ in range(3):
        feed.sample()
    assert (view.samples, view.reads, view.histories_read) == (3, 0, 0)


async def test_all_viewers_share_one_event(feed, view):
    viewers = [asyncio.create_task(feed.following()) for _ in range(MAX_VIEWERS)]
    await asyncio.sleep(0)
    feed.sample()
    events = await asyncio.gather(*viewers)
    assert len({id(event) for event in events}) == 1
    assert view.reads == 1
    assert parsed(events[0]) == ("second", 1, {"sample": 1, "text": "a\nb"})


async def test_the_first_event_has_the_history_and_is_encoded_once_a_second(feed, view):
    feed.sample()
    assert feed.first() is feed.first()
    assert parsed(feed.first()) == (
        "first",
        1,
        {"sample": 1, "text": "a\nb", "history": [{"name": "m"}]},
    )
    assert (view.reads, view.histories_read) == (1, 1)
    before = feed.first()
    feed.sample()
    assert feed.first() is not before


async def test_a_viewer_that_is_slow_gets_the_newest_event(feed):
    for _ in range(5):
        feed.sample()
    waiting = asyncio.create_task(feed.following())
    await asyncio.sleep(0)
    feed.sample()
    assert parsed(await waiting)[1] == 6


async def test_viewers_are_bounded(feed):
    assert all(feed.enter() for _ in range(MAX_VIEWERS))
    assert not feed.enter()
    feed.leave()
    assert feed.enter()


async def test_a_feed_that_is_closed_ends_all_and_takes_none_in(feed):
    waiting = asyncio.create_task(feed.following())
    await asyncio.sleep(0)
    feed.close()
    assert await waiting is None
    assert not feed.enter()


async def test_what_raises_is_logged_once_and_the_feed_goes_on(feed, view, caplog):
    view.error = ValueError("broken")
    waiting = asyncio.create_task(feed.following())
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR):
        feed.sample()
        feed.sample()
    assert caplog.text.count("could not be sampled") == 1
    assert not waiting.done()
    view.error = None
    feed.sample()
    assert parsed(await waiting)[1] == 1


async def test_values_that_cannot_be_sent_are_a_comment(feed, view, caplog):
    view.now = lambda: {"ratio": float("inf")}
    for _ in range(2):
        feed.sample()
        assert feed.first() == b": no values\n\n"
    assert caplog.text.count("has nothing to show") == 1


async def test_what_utf_8_has_no_bytes_for_is_a_question_mark(feed, view):
    view.now = lambda: {"reason": "no file \udcff"}
    feed.sample()
    assert parsed(feed.first())[-1]["reason"] == "no file ?"


async def test_it_samples_once_a_second(view, monkeypatch):
    time_s, slept = [100.0], []

    async def sleep(seconds):
        slept.append(round(seconds, 3))
        time_s[0] += seconds + 0.25  # each sample takes a while
        if len(slept) == 4:
            time_s[0] += 10  # a stall
        if len(slept) == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr("batcher.web.live.feed.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await Feed(view, time=lambda: time_s[0]).run()
    assert slept == [1, 0.75, 0.75, 0.75, 0, 0.75]
