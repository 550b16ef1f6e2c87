import asyncio
import gc
import logging
import threading
import weakref

import pytest

from batcher.errors import ModelLoadError
from batcher.executor import Batch, LoadContext
from batcher.executors.threaded import ThreadedExecutor
from batcher.testing import FakeExecutor

CONTEXT = LoadContext("m", "1", 0, "cpu", 8, {})
EMPTY = Batch({}, 1)


@pytest.fixture
def fake():
    return FakeExecutor(answer=lambda batch: None)


@pytest.fixture
async def threaded(fake):
    instance = ThreadedExecutor(fake, "m/0", asyncio.get_running_loop())
    await instance.load(CONTEXT)
    yield instance
    instance.abandon()


async def outcome_of(instance, job):
    future = asyncio.get_running_loop().create_future()
    instance.submit(job, future.set_result)
    return await asyncio.wait_for(future, 10)


def methods(fake):
    return [call.method for call in fake.calls]


async def ended(instance):
    thread = instance._thread
    await asyncio.to_thread(thread.join, 10)
    return not thread.is_alive()


async def test_every_call_is_on_one_other_thread(threaded, fake):
    for _ in range(3):
        await outcome_of(threaded, lambda executor: executor.execute(EMPTY))
    await threaded.close(10)
    assert methods(fake) == ["load", "execute", "execute", "execute", "close"]
    threads = {call.thread for call in fake.calls}
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert await ended(threaded)


async def test_load_gives_the_metadata_and_passes_the_context_on(fake):
    instance = ThreadedExecutor(fake, "m/0", asyncio.get_running_loop())
    assert await instance.load(CONTEXT) is fake.metadata
    assert fake.context is CONTEXT
    await instance.close(10)


async def test_jobs_run_in_order_and_done_runs_on_the_loop(threaded):
    outcomes = []
    all_done = asyncio.Event()

    def done(outcome):
        outcomes.append((outcome, threading.get_ident()))
        if len(outcomes) == 5:
            all_done.set()

    for number in range(5):
        threaded.submit(lambda _, number=number: number, done)
    await asyncio.wait_for(all_done.wait(), 10)
    assert outcomes == [(number, threading.get_ident()) for number in range(5)]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), StopIteration()])
async def test_what_a_job_raises_is_its_outcome_and_the_thread_lives_on(threaded, error):
    def fail(_):
        raise error

    assert await outcome_of(threaded, fail) is error
    assert await outcome_of(threaded, lambda _: "fine") == "fine"


async def test_load_errors_come_as_they_are_and_end_the_thread(fake):
    fake.load_error = ModelLoadError("the file is missing")
    instance = ThreadedExecutor(fake, "m/0", asyncio.get_running_loop())
    with pytest.raises(ModelLoadError) as caught:
        await instance.load(CONTEXT)
    assert caught.value is fake.load_error
    assert await ended(instance)
    assert methods(fake) == ["load"]


@pytest.mark.parametrize("error", [ValueError("two\nlines"), SystemExit(3), StopIteration("x")])
async def test_other_load_errors_become_one_line(fake, error):
    fake.load_error = error
    instance = ThreadedExecutor(fake, "m/0", asyncio.get_running_loop())
    with pytest.raises(ModelLoadError) as caught:
        await instance.load(CONTEXT)
    message = str(caught.value)
    assert message.startswith("model 'm': the executor could not load: ")
    assert type(error).__name__ in message
    assert "\n" not in message
    assert await ended(instance)


async def test_load_that_returns_no_metadata_is_an_error_and_is_closed(fake):
    fake.metadata = None
    instance = ThreadedExecutor(fake, "m/0", asyncio.get_running_loop())
    with pytest.raises(ModelLoadError, match="must return ModelMetadata, not NoneType"):
        await instance.load(CONTEXT)
    assert methods(fake) == ["load", "close"]


async def test_cancelled_load_is_abandoned_and_closed_when_it_comes_back():
    entered, release = threading.Event(), threading.Event()

    class Slow(FakeExecutor):
        def load(self, context):
            entered.set()
            assert release.wait(10)
            return super().load(context)

    fake = Slow()
    instance = ThreadedExecutor(fake, "m/0", asyncio.get_running_loop())
    loading = asyncio.create_task(instance.load(CONTEXT))
    assert await asyncio.to_thread(entered.wait, 10)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    release.set()
    assert await ended(instance)
    assert methods(fake) == ["load", "close"]


async def test_close_finishes_what_was_submitted_and_takes_no_more(threaded, fake):
    outcomes = []
    threaded.submit(lambda _: "first", outcomes.append)
    closing = asyncio.create_task(threaded.close(10))
    await asyncio.gather(closing, threaded.close(10))
    assert outcomes == ["first"]
    with pytest.raises(RuntimeError, match="takes no more jobs"):
        threaded.submit(lambda _: "late", outcomes.append)
    assert methods(fake).count("close") == 1


async def test_close_before_load_returns_at_once(fake):
    await ThreadedExecutor(fake, "m/0", asyncio.get_running_loop()).close(10)
    assert fake.calls == []


async def test_close_that_raises_is_logged(threaded, fake, monkeypatch, caplog):
    def fail():
        raise ValueError("stuck valve")

    monkeypatch.setattr(fake, "close", fail)
    with caplog.at_level(logging.ERROR):
        await threaded.close(10)
    assert "m/0: the executor's close() raised" in caplog.text
    assert "stuck valve" in caplog.text


async def test_close_gives_up_on_a_hung_call(threaded, fake):
    hang = fake.hang_next()
    outcomes = []
    threaded.submit(lambda executor: executor.execute(EMPTY), outcomes.append)
    await asyncio.to_thread(hang.wait_entered)
    with pytest.raises(TimeoutError, match="m/0 did not close within"):
        await threaded.close(0.01)
    hang.release()
    assert await ended(threaded)
    assert methods(fake)[-1] == "close"
    assert outcomes == []


async def test_abandoned_instance_reports_nothing_and_cleans_up_behind_itself(threaded, fake):
    hang = fake.hang_next()
    outcomes = []
    threaded.submit(lambda executor: executor.execute(EMPTY), outcomes.append)
    threaded.submit(lambda executor: executor.execute(EMPTY), outcomes.append)
    await asyncio.to_thread(hang.wait_entered)
    assert not threaded.hangs
    threaded.abandon()
    await asyncio.wait_for(threaded.close(10), 1)
    assert threaded.hangs
    hang.release()
    assert await ended(threaded)
    assert not threaded.hangs
    await asyncio.sleep(0)
    assert outcomes == []
    assert methods(fake) == ["load", "execute", "close"]
    assert len({call.thread for call in fake.calls}) == 1


async def test_outcome_already_on_its_way_is_dropped_by_abandon(threaded):
    outcomes = []
    returned = threading.Event()
    threaded.submit(lambda _: "answer", outcomes.append)
    threaded.submit(lambda _: returned.set(), outcomes.append)
    # Blocks the loop, so that the first outcome waits in its queue of callbacks.
    assert returned.wait(10)
    threaded.abandon()
    assert await ended(threaded)
    await asyncio.sleep(0)
    assert outcomes == []


async def test_abandon_wakes_a_pending_close(threaded, fake):
    hang = fake.hang_next()
    threaded.submit(lambda executor: executor.execute(EMPTY), lambda _: None)
    closing = asyncio.create_task(threaded.close(60))
    await asyncio.to_thread(hang.wait_entered)
    threaded.abandon()
    await asyncio.wait_for(closing, 10)
    hang.release()
    assert await ended(threaded)


def test_call_that_returns_after_the_loop_closed_ends_quietly(fake):
    hang = fake.hang_next()

    async def start():
        instance = ThreadedExecutor(fake, "m/0", asyncio.get_running_loop())
        await instance.load(CONTEXT)
        instance.submit(lambda executor: executor.execute(EMPTY), lambda _: None)
        await asyncio.to_thread(hang.wait_entered)
        instance.abandon()
        return instance

    instance = asyncio.run(start())
    hang.release()
    instance._thread.join(10)
    assert not instance._thread.is_alive()
    assert methods(fake)[-1] == "close"


async def test_an_idle_thread_keeps_nothing_of_the_last_batch(threaded):
    class Payload:
        pass

    payload = Payload()
    dead = weakref.ref(payload)

    def job(_, payload=payload):
        return payload

    assert await outcome_of(threaded, job) is payload
    del job, payload
    # The thread drops its own references after it has posted the outcome.
    idle = asyncio.Event()
    threaded.submit(lambda _: None, lambda _: idle.set())
    await asyncio.wait_for(idle.wait(), 10)
    gc.collect()
    assert dead() is None
