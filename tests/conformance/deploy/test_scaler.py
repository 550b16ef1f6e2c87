"""`deploy/scaler` finds the fleet of the base, may ask for what it asks, and is where KEDA looks for it."""

import pytest
import yaml

from batcher.scaler.config import parse_scaler_config

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def scaler(kustomize, deploy):
    return kustomize(deploy / "scaler")


@pytest.fixture(scope="module")
def fleet(kustomize, deploy):
    return kustomize(deploy / "overlays" / "fleet")


@pytest.fixture(scope="module")
def config(deploy):
    return parse_scaler_config((deploy / "scaler" / "config.yaml").read_text("utf-8"))


def the(documents, kind, name=None):
    (found,) = [
        each
        for each in documents
        if each["kind"] == kind and name in {None, each["metadata"]["name"]}
    ]
    return found


def test_its_fleet_is_a_service_with_that_port(config, fleet):
    (of,) = (each.replicas.endpoint_slices for each in config.fleets)
    service = the(fleet, "Service", of.service)
    assert of.namespace in {None, service["metadata"]["namespace"]}
    assert of.port in {each["name"] for each in service["spec"]["ports"]}


def test_keda_asks_it_for_a_fleet_that_it_has(config, scaler, fleet):
    (trigger,) = the(fleet, "ScaledObject")["spec"]["triggers"]
    service = the(scaler, "Service")
    host, port = trigger["metadata"]["scalerAddress"].split(":")
    meta = service["metadata"]
    assert host == f"{meta['name']}.{meta['namespace']}.svc.cluster.local"
    assert int(port) in {each["port"] for each in service["spec"]["ports"]}
    assert trigger["metadata"]["fleet"] in {each.name for each in config.fleets}


def test_it_listens_on_the_ports_of_its_container(config, scaler):
    (container,) = the(scaler, "Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert config.listen.grpc == (f"0.0.0.0:{ports['grpc']}",)
    assert config.listen.http == f"0.0.0.0:{ports['http']}"


def test_its_account_may_list_and_watch_endpoint_slices_and_nothing_else(scaler):
    assert not [each for each in scaler if each["kind"].startswith("ClusterRole")]
    assert the(scaler, "Role")["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        }
    ]
    binding, account = the(scaler, "RoleBinding"), the(scaler, "ServiceAccount")["metadata"]
    assert binding["roleRef"]["name"] == the(scaler, "Role")["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    pod = the(scaler, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["name"]
    assert pod["automountServiceAccountToken"] is True


def test_its_policy_lets_it_ask_the_replicas_the_api_server_and_for_names(scaler, fleet):
    egress = the(scaler, "NetworkPolicy")["spec"]["egress"]
    labels = the(fleet, "Deployment", "ranker")["spec"]["template"]["metadata"]["labels"]
    containers = the(fleet, "Deployment", "ranker")["spec"]["template"]["spec"]["containers"]
    (grpc,) = [p["containerPort"] for c in containers for p in c["ports"] if p["name"] == "grpc"]
    assert any(
        {"port": grpc} in rule["ports"]
        and any(
            peer["podSelector"].get("matchLabels", {"": ""}).items() <= labels.items()
            for peer in rule["to"]
        )
        for rule in egress
        if "to" in rule
    )
    assert {each["port"] for rule in egress for each in rule["ports"]} == {grpc, 443, 6443, 53}


def test_there_is_one(scaler):
    """A fleet is woken in one of them, and KEDA asks any."""
    spec = the(scaler, "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert yaml.safe_dump(spec).count("image:") == 1
