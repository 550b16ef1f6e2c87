"""Hooks of requests that have ended: who is told of what, and what a hook that raises costs."""

from types import SimpleNamespace

import pytest

from batcher.telemetry import EndHooks


@pytest.fixture
def hooks():
    return EndHooks()


def test_a_record_is_wanted_by_hooks_that_say_so_and_by_those_that_do_not(hooks):
    told = []
    assert not hooks
    hooks.add(lambda ended: told.append(("every", ended)))
    hooks.add(lambda ended: told.append(("some", ended)), lambda ending, due_ns: ending.x == due_ns)
    assert hooks
    for x in (1, 2):
        wanting = hooks.wanting(SimpleNamespace(x=x), 1)
        hooks.tell(x, wanting)
    hooks.tell(3)
    assert told == [("every", 1), ("some", 1), ("every", 2), ("every", 3), ("some", 3)]


def test_nothing_is_wanted_by_no_hook(hooks):
    hooks.add(lambda _: None, lambda *_: False)
    assert not hooks.wanting(SimpleNamespace(), None)


def test_hooks_that_raise_keep_none_from_being_told_and_are_logged_once(hooks, caplog):
    told = []

    def broken(*_):
        raise ZeroDivisionError

    hooks.add(broken)
    hooks.add(told.append, lambda *_: True)
    hooks.add(lambda _: told.append("never"), broken)
    for _ in range(3):
        hooks.tell("x", hooks.wanting(SimpleNamespace(), None))
    assert told == ["x"] * 3
    assert len(caplog.records) == 2
    assert all(record.exc_info for record in caplog.records)
