"""What is around the pods: services, policies, budgets, monitors and autoscalers name what exists."""

import math
import re

import pytest
import yaml

from batcher.telemetry.families import FAMILIES

SET_POINT = 0.8
"""docs/scaling.md."""

WINDOW_S = 300

EXPORTED = {family.exported_name for family in FAMILIES}

pytestmark = pytest.mark.conformance


def selected(rendered, selector, namespace):
    """The pods of a namespace that have the labels, at least one."""
    found = [
        pod
        for pod in rendered.pods
        if pod.namespace == namespace and selector.items() <= pod.labels.items()
    ]
    assert found, f"no pod has {selector}"
    return found


def port_names(pod):
    return {port["name"] for c in pod.containers for port in c.get("ports", [])}


def port_numbers(pod):
    return {port["containerPort"] for c in pod.containers for port in c.get("ports", [])}


def test_everything_is_in_one_namespace(rendered):
    cluster_wide = {"ClusterRole", "ClusterRoleBinding", "Namespace"}
    namespaces = {
        each["metadata"].get("namespace")
        for each in rendered.documents
        if each["kind"] not in cluster_wide
    }
    # Prometheus reads its rules where it runs.
    assert namespaces == {"monitoring" if rendered.name == "monitoring" else "ml"}


def test_services_lead_to_ports_of_their_pods(rendered):
    for service in rendered.of("Service"):
        spec = service["spec"]
        for pod in selected(rendered, spec["selector"], service["metadata"]["namespace"]):
            # Before 1.32, names of ports are looked for in `containers` alone: a sidecar's would be no endpoint.
            known = port_numbers(pod)
            if not pod.spec.get("initContainers"):
                known |= port_names(pod)
            for port in spec["ports"]:
                assert port["targetPort"] in known
        if spec.get("clusterIP") == "None":
            # Only replicas that are ready: else callers are sent to those that load or drain.
            assert not spec.get("publishNotReadyAddresses")


def test_every_fleet_has_a_headless_service(rendered):
    for pod in rendered.pods:
        if "serve" in str(pod.containers[0].get("args")):
            services = [
                each["metadata"]["name"]
                for each in rendered.of("Service")
                if each["spec"].get("clusterIP") == "None"
                and each["spec"]["selector"].items() <= pod.labels.items()
            ]
            assert services == [f"{pod.owner}-headless"]


def test_a_budget_never_stops_a_node_drain(rendered):
    for budget in rendered.of("PodDisruptionBudget"):
        spec = budget["spec"]
        selected(rendered, spec["selector"]["matchLabels"], budget["metadata"]["namespace"])
        percent = int(re.fullmatch(r"(\d+)%", spec["maxUnavailable"])[1])
        for replicas in range(1, 51):
            # Kubernetes rounds up.
            gone = math.ceil(replicas * percent / 100)
            assert gone >= 1
            if replicas >= 10:
                assert SET_POINT * replicas / (replicas - gone) < 1
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_monitors_scrape_ports_that_exist(rendered):
    for monitor in rendered.of("PodMonitor"):
        spec = monitor["spec"]
        labels = spec["selector"]["matchLabels"]
        for pod in selected(rendered, labels, monitor["metadata"]["namespace"]):
            for endpoint in spec["podMetricsEndpoints"]:
                assert endpoint["port"] in port_names(pod)
                # The averages are over 15 s: two scrapes at least.
                assert int(endpoint["interval"].removesuffix("s")) * 2 < 15


def allowed(policy, port):
    """Who may connect to a port: the labels of pods."""
    return [
        peer.get("podSelector", {}).get("matchLabels")
        for rule in policy["spec"]["ingress"]
        if port in {each["port"] for each in rule["ports"]}
        for peer in rule["from"]
    ]


def test_policies_let_in_callers_the_scaler_and_prometheus_and_nothing_else(rendered):
    for policy in rendered.of("NetworkPolicy"):
        if policy["metadata"]["name"] != "ranker":
            continue
        spec = policy["spec"]
        assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
        labels = spec["podSelector"]["matchLabels"]
        for pod in selected(rendered, labels, policy["metadata"]["namespace"]):
            ports = {each["port"] for rule in spec["ingress"] for each in rule["ports"]}
            # The model's own ports are closed. Numbers: network plugins may not know a sidecar's names.
            assert ports == {8001, 8002} <= port_numbers(pod)
        assert {"calls-ranker": "true"} in allowed(policy, 8001)
        assert {"app.kubernetes.io/name": "batcher-scaler"} in allowed(policy, 8001)
        assert allowed(policy, 8002) == [{"app.kubernetes.io/name": "prometheus"}]
        assert {each["port"] for rule in spec["egress"] for each in rule["ports"]} == {53}


def behavior(document):
    if document["kind"] == "ScaledObject":
        return document["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    return document["spec"]["behavior"]


def test_autoscalers_have_a_target_and_it_has_no_number_of_its_own(rendered):
    for scaler in rendered.of("ScaledObject", "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        deployment = rendered.one("Deployment", target["name"])
        assert deployment["metadata"]["namespace"] == scaler["metadata"]["namespace"]
        assert "replicas" not in deployment["spec"]
    assert len(rendered.of("ScaledObject", "HorizontalPodAutoscaler")) <= 1


def test_autoscalers_grow_at_once_and_shrink_late(rendered):
    for scaler in rendered.of("ScaledObject", "HorizontalPodAutoscaler"):
        rules = behavior(scaler)
        assert rules["scaleUp"]["stabilizationWindowSeconds"] == 0
        assert rules["scaleDown"]["stabilizationWindowSeconds"] == WINDOW_S
        spec = scaler["spec"]
        least = spec.get("minReplicaCount", spec.get("minReplicas"))
        assert least in {0, 1}
        assert least < spec.get("maxReplicaCount", spec.get("maxReplicas"))


def triggers(rendered, *kinds):
    return [
        (scaled, trigger)
        for scaled in rendered.of("ScaledObject")
        for trigger in scaled["spec"]["triggers"]
        if trigger["type"] in kinds
    ]


def test_keda_does_not_guess_when_it_is_told_nothing(rendered):
    for scaled, trigger in triggers(rendered, "prometheus", "external", "external-push"):
        fallback = scaled["spec"]["fallback"]
        assert fallback["behavior"] == "currentReplicasIfHigher"
        assert fallback["replicas"] >= 1
        # KEDA refuses a fallback with metrics of the type Value.
        assert trigger.get("metricType", "AverageValue") == "AverageValue"


def test_the_prometheus_trigger_asks_for_what_is_exported(rendered):
    for scaled, trigger in triggers(rendered, "prometheus"):
        asked = trigger["metadata"]
        assert float(asked["threshold"]) == SET_POINT
        assert asked["ignoreNullValues"] == "false"
        assert set(re.findall(r"batcher_\w+", asked["query"])) == {"batcher_desired_ratio"}
        assert "batcher_desired_ratio" in EXPORTED
        (monitor,) = rendered.of("PodMonitor")
        meta = monitor["metadata"]
        assert set(re.findall(r'job="([^"]+)"', asked["query"])) == {
            f"{meta['namespace']}/{meta['name']}"
        }
        # It cannot see a fleet that has no replica.
        assert scaled["spec"]["minReplicaCount"] == 1


def test_the_hpa_asks_for_what_the_adapter_has(rendered, deploy):
    (rule,) = yaml.safe_load((deploy / "scaling" / "hpa" / "adapter-rules.yaml").read_text("utf-8"))
    for scaler in rendered.of("HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "Pods":
                name = metric["pods"]["metric"]["name"]
                assert name == rule["name"]["as"]
                assert name in EXPORTED
                assert rule["seriesQuery"].startswith(f"{name}{{")
                value = metric["pods"]["target"]["averageValue"]
                assert int(value.removesuffix("m")) / 1000 == SET_POINT
                assert rendered.of("PodMonitor"), "the adapter has no series without it"
            else:
                name = metric["containerResource"]["container"]
                assert any(c["name"] == name for pod in rendered.pods for c in pod.containers)


def test_a_fleet_goes_to_zero_only_where_something_can_wake_it(rendered):
    for scaled in rendered.of("ScaledObject"):
        if scaled["spec"]["minReplicaCount"] == 0:
            types = {each["type"] for each in scaled["spec"]["triggers"]}
            assert types == {"external-push"}
