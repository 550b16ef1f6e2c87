"""The parts of `bench/load fleet` that need no server."""

import asyncio
import socket
import struct

import dns.message
import numpy as np
import pytest
from clients import Record
from fleet import compare
from fleet.dns import NameServer, answer
from fleet.real import RealRun, RealStep
from fleet.scene import CAPACITY, Autoscaler, Scene, load_of, pods_of

from batcher.clock import MILLISECOND, SECOND
from batcher.simulation.fleet import ReplicaView, Sample, Signal

SCENE = Scene((10.0, 40.0), (5.0, 15.0), replicas=2, most=6)


class TestNames:
    def test_addresses_are_records_that_may_not_be_kept(self):
        query = dns.message.make_query("ranker.test.", "A")
        found, asked = answer(query.to_wire(), ["127.0.0.1", "127.0.0.2"])
        response = dns.message.from_wire(found)
        assert asked
        assert query.is_response(response)
        (records,) = response.answer
        assert records.ttl == 0
        assert {each.address for each in records} == {"127.0.0.1", "127.0.0.2"}

    @pytest.mark.parametrize("kind", ["AAAA", "TXT", "SRV"])
    def test_there_are_none_of_other_types(self, kind):
        query = dns.message.make_query("ranker.test.", kind)
        found, asked = answer(query.to_wire(), ["127.0.0.1"])
        assert (dns.message.from_wire(found).answer, asked) == ([], False)

    @pytest.mark.parametrize(
        "data",
        [b"", bytes(11), bytes(12), struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\x09abc"],
    )
    def test_what_is_no_query_is_refused(self, data):
        with pytest.raises(ValueError, match=r"."):
            answer(data, ["127.0.0.1"])

    async def test_a_first_answer_is_noted(self):
        names = NameServer()
        try:
            await names.start()
        except PermissionError as error:
            pytest.skip(f"port 53: {error}")
        names.add("127.0.0.7")
        query = dns.message.make_query("ranker.test.", "A").to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendto(client, query, (names.host, 53))
            async with asyncio.timeout(10):
                await loop.sock_recv(client, 512)
        assert list(names.told_ns) == ["127.0.0.7"]
        names.remove("127.0.0.7")
        names.remove("127.0.0.7")
        assert names.addresses == []
        names.close()


def test_a_load_steps():
    due = np.array(SCENE.due_ns())
    assert SCENE.steps_ns == [5 * SECOND]
    assert (np.diff(due) >= 0).all()
    assert due[-1] < SCENE.until_ns == 20 * SECOND
    early, late = (due < 5 * SECOND).sum() / 5, (due >= 5 * SECOND).sum() / 15
    assert 3 < late / early < 5


def views(*ratios):
    """Replicas that are ready; None: it does not answer, a dash: it starts."""
    found = []
    for number, ratio in enumerate(ratios):
        values = {Signal.DESIRED_RATIO: ratio} if isinstance(ratio, float) else {}
        sample = Sample(0, values) if isinstance(ratio, float) else None
        found.append(ReplicaView(number, 0, None if ratio == "-" else 0, sample))
    return found


@pytest.mark.parametrize(
    ("ratios", "load"),
    [
        ((0.5, 0.7), 1.2),
        ((0.5, 0.7, None), 1.8),
        ((0.5, 0.7, "-"), 1.2),
        ((None, "-"), None),
        ((), None),
    ],
)
def test_the_load_of_a_fleet(ratios, load):
    assert load_of(views(*ratios)) == (None if load is None else pytest.approx(load))


def test_the_autoscaler_grows_at_once_and_shrinks_after_its_window():
    autoscaler, pods = Autoscaler(SCENE), pods_of(views(1.0, 1.0))
    assert autoscaler.decide(SECOND, 2, pods, 3.2).desired == 4
    assert autoscaler.decide(2 * SECOND, 4, pods_of(views(*4 * [1.0])), None).desired == 4
    sizes = [
        autoscaler.decide(at * SECOND, 4, pods_of(views(*4 * [1.0])), 0.8).desired
        for at in range(3, 26)
    ]
    assert sizes[0] == 4
    assert sizes[-1] == 1


class TestFigures:
    RECORDS = (
        {"started_ns": -SECOND, "ended_ns": 10 * SECOND},
        {"started_ns": 5 * SECOND, "ended_ns": None},
    )

    def test_replica_seconds_are_those_of_the_load(self):
        assert compare.replica_seconds(self.RECORDS, 20 * SECOND) == 10 + 15
        at_ns = np.array([0, 7, 12]) * SECOND
        assert compare.alive(self.RECORDS, at_ns).tolist() == [1, 2, 1]

    def test_only_seconds_count_in_which_the_simulation_is_on_time(self):
        due_ns = [at * SECOND // 2 for at in range(40)]
        every = np.ones(40, np.bool_)
        late = every.copy()
        late[34] = False  # in second 17: that, and the one after it, do not count
        told = compare.settled_share(SCENE, due_ns, every, late, every)
        # Seconds 0 to 4, and of those from 10 s after the step 15, 16 and 19.
        assert (told["seconds_possible"], told["requests_counted"]) == (8, 16)
        assert told["on_time_share"] == 1
        real = every.copy()
        real[:4] = False
        calm = every.copy()
        calm[:2] = False
        told = compare.settled_share(SCENE, due_ns, real, late, calm)
        assert (told["requests_counted"], told["on_time"]) == (16, 12)
        assert told["on_time_share"] == 0.75
        assert told["requests_while_calm"] == 14
        assert told["on_time_share_while_calm"] == pytest.approx(12 / 14, abs=1e-4)
        told = compare.settled_share(SCENE, due_ns, real, late, ~every)
        assert (told["on_time_share"], told["on_time_share_while_calm"]) == (0.75, None)

    def test_requests_due_while_callers_were_late_are_judged_as_all_others(self):
        scene = Scene((30.0,), (4.0,), replicas=1, most=1)
        due_ns = scene.due_ns()
        record = Record(
            sent_late_ns=[30 * MILLISECOND] * len(due_ns),
            latency_ns=dict.fromkeys(range(len(due_ns)), SECOND),
        )
        run = RealRun(due_ns, record, [], [], [], {})
        spans = {"start_up": 1.0, "known": 0.1, "drain": 5.0}
        run.replicas.extend(self.RECORDS)
        told = compare.judged(scene, run, spans, compare.callers_calm(run))
        assert told["settled"]["on_time_share"] == 0
        assert told["settled"]["on_time_share_while_calm"] is None
        (on_time,) = (ok for name, ok in told["checks"].items() if name.startswith("on time"))
        assert not on_time

    def test_nothing_counts_as_calm_where_the_callers_are_late_themselves(self):
        record = Record(sent_late_ns=[0, 30 * MILLISECOND, 0, 0, 0])
        due_ns = [0, SECOND, SECOND + 1, 2 * SECOND, 3 * SECOND]
        run = RealRun(due_ns, record, [], [], [], {})
        assert compare.callers_calm(run).tolist() == [True, False, False, False, True]

    def test_the_simulated_fleet_follows_a_step(self):
        scene = Scene((30.0, 150.0), (5.0, 15.0), replicas=1, most=4)
        spans = {"start_up": 2.0, "known": 0.5, "drain": 5.0}
        run = compare.simulated(scene, scene.due_ns(), spans)
        took_ns, _ = compare.simulated_times(run)
        seconds = compare.timeline(scene, scene.due_ns(), took_ns, compare.simulated_records(run))
        assert seconds["replicas"][0] == 1
        assert 150 / CAPACITY < seconds["replicas"][-1] <= 4
        assert seconds["on_time"][-1] == seconds["due"][-1]
        assert 0 < seconds["p95_ms"][0] < 200 * MILLISECOND
        assert run.flaps == 0

    def test_a_size_that_turns_around_within_ten_minutes_is_a_flap_of_a_real_fleet_too(self):
        sizes = [(0, 1, 2), (1, 2, 2), (500, 2, 1), (2000, 1, 3), (2001, 3, 3)]
        steps = [
            RealStep(at_s * SECOND, before, desired, 1, 0, 0, None, "")
            for at_s, before, desired in sizes
        ]
        assert compare.flaps(steps) == 1
