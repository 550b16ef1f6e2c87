"""What is traced, which batches are handed on, and that nothing is kept of what has ended."""

import itertools
from random import Random
from types import SimpleNamespace

import pytest

from batcher.core.commands import Outcome, Reason
from batcher.telemetry import EndedRequest, EndHooks, Stamps
from batcher.telemetry.tracing import TracedBatch, Tracer
from batcher.telemetry.tracing import tracer as module
from batcher.telemetry.tracing.records import MAX_ID, MAX_LINKS, TracedRequest
from batcher.telemetry.tracing.sampling import Sampler

SAMPLED = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


class Server:
    """A tracer, the hooks that it is asked by, and what it has handed on."""

    def __init__(self, ratio=0.0, always=(), seed=1):
        self.handed = []
        self.kept = []
        self.tracer = Tracer(
            Sampler(ratio, Random(seed).getrandbits),
            lambda record, spans: self.handed.append((record, spans())),
            lambda _: "OK",
            always=always,
            kept=lambda ended, context: self.kept.append((ended, context)),
        )
        self.hooks = EndHooks()
        self.hooks.add(self.tracer.ended, self.tracer.wants)

    def begin(self, batch_id, requests):
        batch = TracedBatch(
            batch_id, "m", "1", "m:1#0", "cpu", "", 1, requests, requests, 10, requests + 1
        )
        self.tracer.batch_began(batch)
        return batch

    def end(self, batch_id, failure=""):
        self.tracer.batch_ended(batch_id, 11, 12, 20, 21, failure)

    def request(self, *batches, outcome=Outcome.OK, metadata=(), trace=None, due_ns=None, **more):
        """A request ends; returns whether it is traced."""
        stamps = Stamps(1, 2, 10, 12, 20, 25, 30)
        ending = SimpleNamespace(
            outcome=outcome, stamps=stamps, batches=batches, trace=trace, metadata=metadata
        )
        wanting = self.hooks.wanting(ending, due_ns)
        if wanting:
            ended = EndedRequest(
                "m",
                "1",
                outcome,
                Reason.NONE,
                1,
                stamps,
                due_ns,
                batches=batches,
                metadata=metadata,
                trace=ending.trace,
                **more,
            )
            self.hooks.tell(ended, wanting)
        return bool(wanting)

    @property
    def batches(self):
        return [record for record, _ in self.handed if isinstance(record, TracedBatch)]

    @property
    def requests(self):
        return [record for record, _ in self.handed if isinstance(record, TracedRequest)]


@pytest.mark.parametrize(
    ("always", "outcome", "due_ns", "traced"),
    [
        ((), Outcome.OK, 29, False),
        (("late",), Outcome.OK, 29, True),
        (("late",), Outcome.OK, 30, False),
        (("late",), Outcome.OK, None, False),
        (("late",), Outcome.EXPIRED, None, True),
        (("late",), Outcome.FAILED, 29, False),
        (("failed",), Outcome.FAILED, None, True),
        (("failed",), Outcome.OK, 29, False),
        (("refused",), Outcome.REJECTED, None, True),
        (("late", "failed", "refused"), Outcome.CANCELLED, 29, False),
    ],
)
def test_what_is_always_kept(always, outcome, due_ns, traced):
    server = Server(always=always)
    assert server.request(outcome=outcome, due_ns=due_ns) is traced
    assert len(server.requests) == len(server.kept) == traced


def test_a_batch_is_handed_on_after_its_last_request_and_itself():
    server = Server(ratio=1)
    server.begin(7, 2)
    server.request(7)
    server.request(7)
    assert not server.batches
    server.end(7)
    (batch,) = server.batches
    assert batch.links == [(r.context.trace_id, r.context.span_id) for r in server.requests]
    assert [r.batches for r in server.requests] == [
        ((batch.context.trace_id, batch.context.span_id),)
    ] * 2
    assert batch.has_parent
    assert batch.context.parent_id == server.requests[0].context.execute_id
    assert not server.tracer._batches


def test_a_batch_of_untraced_requests_is_forgotten():
    server = Server()
    server.begin(7, 2)
    server.end(7)
    server.request(7)
    server.request(7)
    assert not server.handed
    assert not server.tracer._batches


def test_what_was_sent_on_stays():
    """The next server was told of the span, whichever request of the batch ends first."""
    server = Server(ratio=0)
    batch = server.begin(7, 2)
    first, second = (server.tracer.context(each) for each in ((), (SAMPLED,)))
    own = server.tracer.send_on(batch, [first, second])
    assert (own.trace_id, own.parent_id) == (second.trace_id, second.execute_id)
    assert own.sampled
    server.end(7)
    server.request(7, trace=second)
    server.request(7, trace=first)
    assert server.batches == [batch]
    assert batch.context is own
    assert batch.has_parent


def test_a_batch_that_was_sent_on_below_a_request_that_is_not_kept_has_no_parent():
    server = Server(ratio=0, always=["failed"])
    batch = server.begin(7, 2)
    first, second = (server.tracer.context(()) for _ in range(2))
    own = server.tracer.send_on(batch, [first, second])
    assert own.parent_id == first.execute_id
    server.end(7)
    server.request(7, trace=first)
    server.request(7, trace=second, outcome=Outcome.FAILED)
    assert server.batches == [batch]
    assert not batch.has_parent


def test_a_lost_batch_is_one_that_failed():
    server = Server(ratio=1)
    server.begin(7, 1)
    server.tracer.batch_lost(7, 50, "instance_down")
    server.request(7, outcome=Outcome.FAILED)
    (batch,) = server.batches
    assert (batch.failure, batch.ended_ns, batch.execute_start_ns) == ("instance_down", 50, 0)


def test_a_batch_has_a_bounded_number_of_links():
    server = Server(ratio=1)
    server.begin(7, MAX_LINKS + 5)
    server.end(7)
    for _ in range(MAX_LINKS + 5):
        server.request(7)
    assert len(server.batches[0].links) == MAX_LINKS


def test_batches_whose_requests_do_not_end_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST_BATCHES", 3)
    server = Server(ratio=1)
    for batch_id in range(5):
        server.begin(batch_id, 1)
    assert list(server.tracer._batches) == [2, 3, 4]
    for batch_id in range(5):
        server.end(batch_id)
        server.request(batch_id)
    assert [batch.id for batch in server.batches] == [2, 3, 4]
    assert [len(request.batches) for request in server.requests] == [0, 0, 1, 1, 1]


def test_what_the_caller_says_is_cut():
    server = Server(ratio=1)
    server.request(id="x" * 10_000, tenant="y" * 10_000)
    assert (len(server.requests[0].id), len(server.requests[0].tenant)) == (MAX_ID, MAX_ID)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_left_whatever_happens(seed):
    """Requests of several batches, ended in any order with them, traced or not."""
    chance = Random(seed)
    server = Server(ratio=0.3, always=["failed"], seed=seed)
    sizes = dict.fromkeys(range(10), 0)
    requests = []
    for _ in range(40):
        mine = tuple(chance.sample(range(10), chance.randint(0, 3)))
        requests.append(mine)
        for batch_id in mine:
            sizes[batch_id] += 1
    for batch_id, size in sizes.items():
        server.begin(batch_id, size)
    steps = [("batch", each) for each in sizes] + [("request", each) for each in requests]
    chance.shuffle(steps)
    traced = set()
    for kind, what in steps:
        if kind == "batch":
            server.end(what)
        elif server.request(*what, outcome=chance.choice([Outcome.OK, Outcome.FAILED])):
            traced.update(what)
    assert not server.tracer._batches
    assert {batch.id for batch in server.batches} == traced
    spans = {(b.context.trace_id, b.context.span_id): b.id for b in server.batches}
    for batch in server.batches:
        back = [
            request
            for request in server.requests
            if batch.id in {spans[link] for link in request.batches}
        ]
        assert {(r.context.trace_id, r.context.span_id) for r in back} == set(batch.links)


@pytest.mark.parametrize(
    "moments",
    [
        (1, 0, 0, 0, 0, 5, 6),
        (1, 2, 0, 0, 0, 5, 6),
        (1, 2, 3, 0, 0, 5, 6),
        (1, 2, 3, 4, 0, 5, 6),
        (1, 2, 3, 4, 5, 7, 9),
        (1, 2, 3, 8, 12, 5, 6),
        (1, 2, 3, 4, 12, 5, 6),
        (1, 2, 3, 4, 5, 5, 5),
        (1, 0, 0, 0, 0, 5, 0),
    ],
)
def test_stages_are_all_of_a_request_whenever_it_ended(moments):
    """Also where its batch went on after it: those moments are written afterwards."""
    context = Sampler(1).context(())
    request = TracedRequest(context, "m", "1", Outcome.OK, "", "OK", 1, Stamps(*moments))
    stages = list(request.stages())
    assert stages[0][1] == moments[0]
    assert stages[-1][2] == request.end_ns == (moments[6] or moments[5])
    assert all(a[2] == b[1] for a, b in itertools.pairwise(stages))
    assert all(began <= ended for _, began, ended in stages)
    assert request.count_spans() == 1 + len(stages)
