"""The folders of `deploy/` fit together: each is rendered, and the scaler knows the fleet that asks it."""

from pathlib import Path

import pytest
import yaml

from batcher.scaler.metrics import METRICS

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def scaler(render):
    return render("scaler")


@pytest.fixture(scope="module")
def fleets(scaler):
    """Name -> the section of the scaler's configuration."""
    (pod,) = scaler.pods
    (container,) = pod.containers
    config = yaml.safe_load(pod.files(container)[container["args"][-1]])
    return {each["name"]: each for each in config["fleets"]}


def test_every_component_is_rendered_with_something(combined, deploy):
    used = {
        (path.parent / each).resolve()
        for path in deploy.rglob("kustomization.yaml")
        for each in yaml.safe_load(path.read_text("utf-8")).get("components", [])
    }
    used |= {(deploy / each).resolve() for folders in combined.values() for each in folders}
    components = {
        path.parent
        for path in deploy.rglob("kustomization.yaml")
        if yaml.safe_load(path.read_text("utf-8")).get("kind") == "Component"
    }
    assert components <= used


def triggers(renderings):
    found = [
        (rendered, trigger)
        for rendered in renderings
        for scaled in rendered.of("ScaledObject")
        for trigger in scaled["spec"]["triggers"]
        if trigger["type"].startswith("external")
    ]
    assert found
    return found


def test_triggers_ask_the_scaler_for_a_fleet_that_it_knows(all_rendered, scaler, fleets):
    service = scaler.one("Service", "batcher-scaler")
    (port,) = [each["port"] for each in service["spec"]["ports"] if each["name"] == "grpc"]
    namespace = service["metadata"]["namespace"]
    for _, trigger in triggers(all_rendered):
        asked = trigger["metadata"]
        assert asked["scalerAddress"] == f"batcher-scaler.{namespace}.svc.cluster.local:{port}"
        assert asked["fleet"] in fleets
        assert asked["metric"] in METRICS
        assert float(asked["target"]) == 0.8


def test_the_scaler_finds_the_replicas_of_the_fleet(all_rendered, fleets):
    for rendered, trigger in triggers(all_rendered):
        place = fleets[trigger["metadata"]["fleet"]]["replicas"]["endpoint_slices"]
        service = rendered.one("Service", place["service"])
        assert service["spec"]["clusterIP"] == "None"
        assert place["port"] in {each["name"] for each in service["spec"]["ports"]}


def matches(selector, labels):
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    rules = selector.get("matchExpressions", [])
    assert all(each["operator"] == "Exists" for each in rules)
    return wanted and all(each["key"] in labels for each in rules)


def test_policies_let_the_scaler_reach_the_replicas_of_every_overlay(all_rendered, scaler):
    (pod,) = scaler.pods
    policy = scaler.one("NetworkPolicy", "batcher-scaler")["spec"]
    for rendered in all_rendered:
        for replica in rendered.pods:
            if replica.owner == pod.owner:
                continue
            (port,) = [
                port["containerPort"]
                for container in replica.containers
                for port in container.get("ports", [])
                if port["name"] in {"grpc", "h2c"}
            ]
            assert any(
                matches(peer["podSelector"], replica.labels)
                for rule in policy["egress"]
                if port in {each["port"] for each in rule["ports"]}
                for peer in rule.get("to", [])
                if "podSelector" in peer
            ), f"{rendered.name}: {replica.labels}"
        for inbound in rendered.of("NetworkPolicy"):
            if inbound["metadata"]["name"] == "ranker":
                peers = [
                    peer["podSelector"]
                    for rule in inbound["spec"]["ingress"]
                    if {"port": 8001} in rule["ports"]
                    for peer in rule["from"]
                ]
                assert any(matches(each, pod.labels) for each in peers)


def test_paths_of_components_are_told_in_the_page(deploy):
    page = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text("utf-8")
    for path in deploy.rglob("kustomization.yaml"):
        folder = path.parent.relative_to(deploy)
        if folder.parts[0] in {"components", "overlays", "scaling"}:
            assert folder.name in page, folder
