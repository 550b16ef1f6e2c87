"""Replicas that a DNS name lists: what is empty, what is not known, and when it is asked again."""

import asyncio

import dns.name
import dns.rcode
import pytest

from batcher.scaler.discovery import named
from batcher.scaler.discovery.interface import HEARTBEAT_NS, Endpoint
from batcher.scaler.discovery.looking import MAX_REPLICAS
from batcher.scaler.discovery.named import LONGEST_S, NamedReplicas, SystemResolver, candidates

NAME = "ranker.ml.svc.cluster.local."


@pytest.fixture
def look(running, resolver, rng):
    """Starts looking for the replicas of a name."""

    def start(name=NAME, port=8001):
        return running(
            lambda pause: NamedReplicas(
                name, port, clock=lambda: 7, pause=pause, rng=rng, resolver=lambda: resolver
            )
        )

    return start


def addresses(found):
    assert found.ok, found.error
    assert not found.error
    return [each.address for each in found.endpoints]


def unknown(found):
    assert not found.ok
    assert not found.endpoints
    return found.error


async def test_each_address_is_a_replica(name_server, look):
    name_server.zone[NAME, "A"] = ["10.0.0.2", "10.0.0.1"]
    found = await look().first()
    assert found.endpoints == (Endpoint("10.0.0.1:8001"), Endpoint("10.0.0.2:8001"))
    assert found.at_ns == 7
    assert name_server.asked == [(NAME, "A")]


async def test_addresses_of_ipv6_count_where_there_are_no_others(name_server, look):
    name_server.zone[NAME, "AAAA"] = ["fd00::1"]
    assert addresses(await look().first()) == ["[fd00::1]:8001"]


async def test_a_pod_with_two_families_is_one_replica(name_server, look):
    name_server.zone[NAME, "A"] = ["10.0.0.1"]
    name_server.zone[NAME, "AAAA"] = ["fd00::1"]
    assert addresses(await look().first()) == ["10.0.0.1:8001"]


async def test_it_is_asked_again_when_the_answer_expires(name_server, look):
    name_server.zone[NAME, "A"] = ["10.0.0.1"]
    looking = look()
    await looking.first()
    name_server.zone[NAME, "A"] = ["10.0.0.1", "10.0.0.2"]
    assert addresses(await looking.next()) == ["10.0.0.1:8001", "10.0.0.2:8001"]
    assert looking.pauses[0] == 5


@pytest.mark.parametrize(("ttl", "pause"), [(0, 1), (3600, LONGEST_S)])
async def test_the_time_to_live_is_bounded(name_server, look, ttl, pause):
    name_server.ttl = ttl
    name_server.zone[NAME, "A"] = ["10.0.0.1"]
    looking = look()
    await looking.until(lambda: looking.pauses)
    assert looking.pauses == [pause]
    assert pause * 1e9 < HEARTBEAT_NS


async def test_a_name_that_ceases_to_exist_is_an_empty_fleet(name_server, look):
    """CoreDNS has no name for a headless service without endpoints."""
    name_server.zone[NAME, "A"] = ["10.0.0.1"]
    looking = look()
    await looking.first()
    name_server.zone.clear()
    assert addresses(await looking.next()) == []
    await looking.until(lambda: len(looking.pauses) == 2)
    assert looking.pauses[1] == 7, "the SOA record says how long a name may be taken not to exist"
    name_server.zone[NAME, "A"] = ["10.0.0.3"]
    assert addresses(await looking.next()) == ["10.0.0.3:8001"]


async def test_a_name_without_addresses_is_an_empty_fleet(name_server, look):
    name_server.zone[NAME, "A"] = ["10.0.0.1"]
    looking = look()
    await looking.first()
    name_server.zone = {(NAME, "TXT"): []}
    assert addresses(await looking.next()) == []
    assert name_server.asked[1:] == [(NAME, "A"), (NAME, "AAAA")]


@pytest.mark.parametrize("zone", [{}, {(NAME, "TXT"): []}])
async def test_a_name_that_never_had_addresses_may_be_misspelled(name_server, look, zone):
    name_server.zone.update(zone)
    looking = look()
    assert "there is no address of the name" in unknown(await looking.first())
    assert "there is no address of the name" in unknown(await looking.next())


async def test_no_addresses_from_a_server_that_speaks_for_no_zone_are_not_known(name_server, look):
    name_server.zone[NAME, "A"] = ["10.0.0.1"]
    looking = look()
    await looking.first()
    name_server.zone, name_server.soa = {(NAME, "TXT"): []}, False
    assert "no SOA record" in unknown(await looking.next())


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    "rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.YXDOMAIN]
)
async def test_a_failure_of_the_server_is_not_known(name_server, look, rcode, before):
    looking = look() if not before else None
    if before:
        name_server.zone[NAME, "A"] = ["10.0.0.1"]
        looking = look()
        await looking.first()
    name_server.rcode["*"] = rcode
    assert "no DNS server can say" in unknown(
        await looking.next() if before else await looking.first()
    )


@pytest.fixture
def hasty(monkeypatch, resolver):
    """Questions end soon."""
    monkeypatch.setattr(named, "LOOKUP_S", 0.01)


@pytest.mark.usefixtures("hasty")
async def test_silence_is_not_known(name_server, look):
    name_server.silent = True
    looking = look()
    unknown(await looking.first())


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_is_not_there_is_not_known(running, resolver, rng, name_server):
    resolver.port = 1
    looking = running(
        lambda pause: NamedReplicas(NAME, 8001, pause=pause, rng=rng, resolver=lambda: resolver)
    )
    assert "no DNS server" in unknown(await looking.first())


async def test_a_failure_for_the_second_family_is_not_known(name_server, look):
    name_server.zone[NAME, "A"] = ["10.0.0.1"]
    looking = look()
    await looking.first()
    name_server.zone = {(NAME, "TXT"): []}
    name_server.rcode[NAME, "AAAA"] = dns.rcode.SERVFAIL
    assert "(AAAA)" in unknown(await looking.next())


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("garbage", [b"", b"\x81", b"\xff" * 40, bytes(65_000)])
async def test_garbage_is_not_known(name_server, look, garbage):
    name_server.garbage = garbage
    unknown(await look().first())


async def test_pauses_after_failures_double_and_are_random(name_server, look):
    name_server.rcode["*"] = dns.rcode.REFUSED
    looking = look()
    await looking.first()
    for _ in range(8):
        await looking.next()
    due = [0.5, 1, 2, 4, 8, 8, 8, 8]
    assert all(d / 2 <= p <= d for d, p in zip(due, looking.pauses, strict=False))
    assert len(set(looking.pauses)) == len(looking.pauses)
    name_server.rcode.clear()
    name_server.zone[NAME, "A"] = ["10.0.0.1"]
    await looking.next()
    await looking.until(lambda: looking.pauses[-1] == 5)
    name_server.rcode["*"] = dns.rcode.REFUSED
    await looking.next()
    await looking.until(lambda: looking.pauses[-1] < 1)


async def test_answers_that_are_too_large_for_a_datagram_come_over_tcp(name_server, look):
    name_server.zone[NAME, "A"] = [f"10.0.{n // 250}.{n % 250 + 1}" for n in range(MAX_REPLICAS)]
    found = await look().first()
    assert len(addresses(found)) == MAX_REPLICAS
    assert name_server.over_tcp == 1


async def test_more_replicas_than_a_fleet_may_have_are_not_known(name_server, look):
    name_server.zone[NAME, "A"] = [f"10.0.{n // 250}.{n % 250}" for n in range(MAX_REPLICAS + 1)]
    assert f"more than {MAX_REPLICAS} replicas" in unknown(await look().first())


class TestSearchDomains:
    @pytest.fixture(autouse=True)
    def domains(self, resolver):
        resolver.search = [
            dns.name.from_text(each) for each in ("ml.svc.cluster.local", "cluster.local")
        ]
        resolver.ndots = 5

    async def test_a_short_name_is_looked_for_in_them(self, name_server, look):
        name_server.zone[NAME, "A"] = ["10.0.0.1"]
        assert addresses(await look("ranker").first()) == ["10.0.0.1:8001"]

    async def test_only_the_one_that_had_addresses_counts_from_then_on(self, name_server, look):
        """A name that exists in another domain is not taken for it when the fleet is empty."""
        name_server.zone["ranker.cluster.local.", "A"] = ["10.0.0.1"]
        looking = look("ranker")
        await looking.first()
        name_server.zone = {("ranker.", "A"): ["192.0.2.1"]}
        assert addresses(await looking.next()) == []
        assert name_server.names[-1] == "ranker.cluster.local."

    async def test_a_domain_that_fails_does_not_hide_the_next(self, name_server, look):
        name_server.rcode[NAME, "A"] = dns.rcode.SERVFAIL
        name_server.zone["ranker.cluster.local.", "A"] = ["10.0.0.1"]
        assert addresses(await look("ranker").first()) == ["10.0.0.1:8001"]

    async def test_with_a_domain_that_fails_nothing_is_known(self, name_server, look):
        name_server.rcode[NAME, "A"] = dns.rcode.SERVFAIL
        assert "SERVFAIL" in unknown(await look("ranker").first())

    @pytest.mark.parametrize(
        ("name", "tried"),
        [
            ("a.", ["a."]),
            ("a", ["a.ml.svc.cluster.local.", "a.cluster.local.", "a."]),
            (
                "a.b.c.d.e.f",
                ["a.b.c.d.e.f.", "a.b.c.d.e.f.ml.svc.cluster.local.", "a.b.c.d.e.f.cluster.local."],
            ),
        ],
    )
    def test_the_order_is_that_of_the_c_library(self, resolver, name, tried):
        assert [each.to_text() for each in candidates(name, resolver)] == tried


class TestSystemResolver:
    def test_it_reads_the_file_again_when_it_changes(self, tmp_path):
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 10.0.0.10\nsearch ml.svc.cluster.local\noptions ndots:5\n")
        system = SystemResolver(path)
        first = system()
        assert first.nameservers == ["10.0.0.10"]
        assert [each.to_text() for each in first.search] == ["ml.svc.cluster.local."]
        assert first.ndots == 5
        assert system() is first
        path.write_text("nameserver 10.0.0.11\nnameserver 10.0.0.12\n")
        assert system().nameservers == ["10.0.0.11", "10.0.0.12"]

    @pytest.mark.parametrize("text", [None, "", "search a.b\n"])
    async def test_without_servers_nothing_is_known(self, tmp_path, running, text):
        path = tmp_path / "resolv.conf"
        if text is not None:
            path.write_text(text)
        looking = running(
            lambda pause: NamedReplicas(NAME, 8001, pause=pause, resolver=SystemResolver(path))
        )
        assert "no DNS server is configured" in unknown(await looking.first())


async def test_it_ends_while_it_asks(name_server, look):
    name_server.silent = True
    looking = look()
    await asyncio.wait_for(name_server.was_asked.wait(), 60)
    await looking.stop()
