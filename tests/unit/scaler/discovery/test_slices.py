"""What the EndpointSlices of a service say together."""

import json

import pytest
from kubernetes_fake import bookmark, endpoint, endpoint_slice, event, listed, status

from batcher.scaler.discovery.interface import Endpoint
from batcher.scaler.discovery.kubernetes.slices import MAX_SLICES, GoneError, Slices
from batcher.scaler.discovery.looking import MAX_REPLICAS, DiscoveryError


def slices_of(*slices, port="grpc"):
    made = Slices("ranker", "ml", port)
    made.listed(json.dumps(listed(*slices)).encode())
    return made


def change(slices, kind, thing):
    slices.changed(json.dumps(event(kind, thing)).encode())


def addresses(slices):
    return sorted(each.address for each in slices.endpoints())


def test_several_slices_are_one_service():
    slices = slices_of(
        endpoint_slice("a", endpoint("10.0.0.1", pod="p1"), endpoint("10.0.0.2", pod="p2")),
        endpoint_slice("b", endpoint("10.0.0.3", pod="p3", ready=False)),
    )
    assert slices.endpoints() == [
        Endpoint("10.0.0.1:8001", True, "p1"),
        Endpoint("10.0.0.2:8001", True, "p2"),
        Endpoint("10.0.0.3:8001", False, "p3"),
    ]
    assert slices.version == "10"


def test_an_endpoint_that_is_moved_between_slices_is_one_replica():
    slices = slices_of(
        endpoint_slice("a", endpoint("10.0.0.1", pod="p1", ready=False)),
        endpoint_slice("b", endpoint("10.0.0.1", pod="p1")),
    )
    assert slices.endpoints() == [Endpoint("10.0.0.1:8001", True, "p1")]


def test_a_pod_with_two_families_is_one_replica():
    slices = slices_of(
        endpoint_slice(
            "b", endpoint("fd00::1", pod="p1"), endpoint("fd00::2", pod="p2"), kind="IPv6"
        ),
        endpoint_slice("a", endpoint("10.0.0.1", pod="p1")),
    )
    assert addresses(slices) == ["10.0.0.1:8001", "[fd00::2]:8001"]


def test_of_endpoints_that_name_no_pod_one_family_counts():
    slices = slices_of(
        endpoint_slice("b", endpoint("fd00::1"), kind="IPv6"),
        endpoint_slice("a", endpoint("10.0.0.1"), endpoint("10.0.0.2")),
    )
    assert addresses(slices) == ["10.0.0.1:8001", "10.0.0.2:8001"]


def test_names_of_hosts_are_addresses():
    slices = slices_of(
        endpoint_slice(
            "a", endpoint("gpu1.example.com"), endpoint("gpu2.example.com."), kind="FQDN"
        )
    )
    assert addresses(slices) == ["gpu1.example.com:8001", "gpu2.example.com:8001"]


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ({}, True),
        ({"ready": None, "serving": None, "terminating": None}, True),
        ({"ready": False}, False),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False, "serving": True, "terminating": True}, False),
        # A service that publishes addresses that are not ready says `ready` of all of them.
        ({"ready": True, "serving": False, "terminating": False}, False),
        ({"ready": True, "serving": True, "terminating": True}, False),
    ],
)
def test_conditions(conditions, ready):
    one = {**endpoint("10.0.0.1", pod="p1"), "conditions": conditions}
    assert slices_of(endpoint_slice("a", one)).endpoints()[0].ready is ready


class TestPorts:
    PORTS = (
        {"name": "http", "port": 8002, "protocol": "TCP"},
        {"name": "grpc", "port": 9001, "protocol": "TCP"},
    )

    def test_by_name(self):
        slices = slices_of(endpoint_slice("a", endpoint("10.0.0.1"), ports=list(self.PORTS)))
        assert addresses(slices) == ["10.0.0.1:9001"]

    def test_by_number(self):
        slices = slices_of(
            endpoint_slice("a", endpoint("10.0.0.1"), ports=list(self.PORTS)), port=7000
        )
        assert addresses(slices) == ["10.0.0.1:7000"]

    def test_by_number_without_ports(self):
        one = {**endpoint_slice("a", endpoint("10.0.0.1")), "ports": None}
        assert addresses(slices_of(one, port=7000)) == ["10.0.0.1:7000"]

    def test_each_slice_has_its_own(self):
        slices = slices_of(
            endpoint_slice("a", endpoint("10.0.0.1"), ports=list(self.PORTS)),
            endpoint_slice("b", endpoint("10.0.0.2")),
            endpoint_slice("c", endpoint("10.0.0.3"), ports=[{"name": "http", "port": 1}]),
        )
        assert addresses(slices) == ["10.0.0.1:9001", "10.0.0.2:8001"]

    @pytest.mark.parametrize(
        ("ports", "said"),
        [
            ([], "none"),
            ([{"name": "http", "port": 1}], "'http'"),
            ([{"name": "", "port": 1}], "''"),
        ],
    )
    def test_a_name_that_no_slice_has_is_an_error(self, ports, said):
        slices = slices_of(endpoint_slice("a", endpoint("10.0.0.1"), ports=ports))
        with pytest.raises(DiscoveryError, match=f"no port named 'grpc'; its ports: {said}"):
            slices.endpoints()

    def test_a_service_without_endpoints_needs_none(self):
        """Kubernetes' own slice for it has no ports."""
        assert slices_of(endpoint_slice("a", ports=[])).endpoints() == []


def test_no_slice_means_that_the_service_does_not_exist():
    with pytest.raises(
        DiscoveryError, match="no EndpointSlice of a service 'ranker' in the namespace 'ml'"
    ):
        slices_of().endpoints()


def test_changes():
    slices = slices_of(endpoint_slice("a", endpoint("10.0.0.1")))
    change(slices, "ADDED", endpoint_slice("b", endpoint("10.0.0.2"), version="11"))
    assert addresses(slices) == ["10.0.0.1:8001", "10.0.0.2:8001"]
    change(slices, "MODIFIED", endpoint_slice("a", endpoint("10.0.0.3"), version="12"))
    assert addresses(slices) == ["10.0.0.2:8001", "10.0.0.3:8001"]
    change(slices, "DELETED", endpoint_slice("b", endpoint("10.0.0.2"), version="13"))
    assert addresses(slices) == ["10.0.0.3:8001"]
    assert slices.version == "13"
    slices.changed(json.dumps(bookmark("20")).encode())
    assert slices.version == "20"
    assert addresses(slices) == ["10.0.0.3:8001"]


def test_a_version_that_is_forgotten():
    slices = slices_of(endpoint_slice("a"))
    with pytest.raises(GoneError, match="410 Expired: too old resource version"):
        change(slices, "ERROR", status(410, "Expired", "too old resource version: 1 (2)"))


def test_an_error_in_a_watch():
    slices = slices_of(endpoint_slice("a"))
    with pytest.raises(DiscoveryError, match="500 InternalError: no luck"):
        change(slices, "ERROR", status(500, "InternalError", "no\nluck"))


ADDRESSES = [
    ("IPv4", "unix:/run/evil.sock"),
    ("IPv4", "10.0.0.1:22"),
    ("IPv4", "fd00::1"),
    ("IPv4", ""),
    ("IPv6", "10.0.0.1"),
    ("IPv6", "fd00::1]:22/["),
    ("FQDN", "unix:/run/evil.sock"),
    ("FQDN", "a b"),
    ("FQDN", "a/b"),
    ("FQDN", "[::1]"),
]


@pytest.mark.parametrize(("kind", "address"), ADDRESSES)
def test_what_is_no_address_is_an_error(kind, address):
    slices = slices_of(endpoint_slice("a", endpoint(address), kind=kind))
    with pytest.raises(DiscoveryError, match=f"which is no {kind} address"):
        slices.endpoints()


@pytest.mark.parametrize(
    "change_it",
    [
        lambda it: it.update(kind="Status"),
        lambda it: it.update(kind="PodList"),
        lambda it: it.pop("metadata"),
        lambda it: it["metadata"].update(resourceVersion=""),
        lambda it: it["metadata"].update(resourceVersion=None),
        lambda it: it.update(items={}),
        lambda it: it.update(items="abc"),
        lambda it: it.update(items=[None]),
        lambda it: it["items"][0].update(endpoints={}),
        lambda it: it["items"][0].update(endpoints=[{"addresses": []}]),
        lambda it: it["items"][0].update(endpoints=[{"addresses": ["10.0.0.1"] * 101}]),
        lambda it: it["items"][0].update(endpoints=[endpoint("10.0.0.1")] * (MAX_REPLICAS + 1)),
        lambda it: it["items"][0].update(
            endpoints=[{**endpoint("a"), "conditions": {"ready": "no"}}]
        ),
        lambda it: it["items"][0].update(ports=[{"name": "grpc", "port": 0}]),
        lambda it: it["items"][0].update(ports=[{"name": "grpc", "port": 65_536}]),
        lambda it: it["items"][0].update(addressType="IP"),
        lambda it: it["items"][0]["metadata"].update(name="x" * 254),
        lambda it: it.update(items=it["items"] * (MAX_SLICES + 1)),
        lambda it: it["metadata"].update({"continue": "abc"}),
    ],
)
def test_a_list_that_is_none_changes_nothing(change_it):
    slices = slices_of(endpoint_slice("a", endpoint("10.0.0.1")))
    it = listed(endpoint_slice("b", endpoint("10.0.0.2")), version="99")
    change_it(it)
    with pytest.raises(DiscoveryError):
        slices.listed(json.dumps(it).encode())
    assert addresses(slices) == ["10.0.0.1:8001"]
    assert slices.version == "10"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"kind": NaN}']
)
def test_what_is_no_json_is_an_error(body):
    slices = slices_of(endpoint_slice("a"))
    with pytest.raises(DiscoveryError, match="is no list of EndpointSlices"):
        slices.listed(body)
    with pytest.raises(DiscoveryError, match="is no change of EndpointSlices"):
        slices.changed(body)


def test_an_event_of_an_unknown_kind_is_an_error():
    with pytest.raises(DiscoveryError, match="is no change of EndpointSlices"):
        change(slices_of(endpoint_slice("a")), "RENAMED", endpoint_slice("a"))


def test_more_endpoints_than_a_fleet_may_have_are_an_error():
    slices = slices_of(
        *(
            endpoint_slice(f"s{n}", *(endpoint(f"10.0.{n}.{k}") for k in range(100)))
            for n in range(MAX_REPLICAS // 100)
        )
    )
    assert len(slices.endpoints()) == MAX_REPLICAS
    change(slices, "ADDED", endpoint_slice("one", endpoint("10.1.0.1")))
    with pytest.raises(DiscoveryError, match=f"more than {MAX_REPLICAS} replicas"):
        slices.endpoints()


def test_more_slices_than_are_read_are_an_error():
    slices = slices_of(*(endpoint_slice(f"s{n}") for n in range(MAX_SLICES)))
    change(slices, "MODIFIED", endpoint_slice("s0"))
    with pytest.raises(DiscoveryError, match=f"more than {MAX_SLICES} EndpointSlices"):
        change(slices, "ADDED", endpoint_slice("one"))
