"""Pods that run `batcher serve`: the manifest and the configuration that it mounts say the same."""

import re
from types import SimpleNamespace

import pytest

from batcher.clock import SECOND
from batcher.config import parse_config

AFTER_DRAIN_S = 10
"""Closing models, and what the container runtime takes to end a container."""
DNS_CACHE_S = 5
"""How long CoreDNS says that the addresses of a headless Service may be kept."""

pytestmark = pytest.mark.conformance


def environment(container):
    return {each["name"]: each.get("value", "x") for each in container.get("env", [])}


@pytest.fixture
def servers(rendered):
    """Each container that runs `batcher serve`, with its pod and its configuration."""
    found = []
    for pod in rendered.pods:
        for container in pod.containers:
            args = container.get("args", [])
            if args[:1] != ["serve"]:
                continue
            text = pod.files(container)[args[-1]]
            config = parse_config(text, environ=environment(container))
            found.append(SimpleNamespace(pod=pod, container=container, config=config))
    return found


def test_every_fleet_has_servers(rendered, servers):
    fleets = {pod.owner for pod in rendered.pods} - {"batcher-scaler"}
    assert {each.pod.owner for each in servers} == fleets
    assert fleets or rendered.name.startswith(("scaler", "monitoring"))


def others(server):
    return [each for each in server.pod.containers if each is not server.container]


def window_s(probe):
    """How long a probe may fail."""
    return probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)


def test_what_it_opens_to_the_pod_s_address_is_declared(servers):
    for server in servers:
        addresses = [*server.config.server.grpc, *server.config.server.admin]
        assert not [each for each in server.config.server.admin if not each.startswith("unix:")]
        addresses.append(server.config.server.http)
        opened = {each for each in addresses if not each.startswith("unix:")}
        assert all(each.startswith("0.0.0.0:") for each in opened)
        declared = {port["containerPort"] for port in server.container["ports"]}
        assert declared == {int(each.rpartition(":")[2]) for each in opened}


def test_probes_ask_the_http_side(servers):
    for server in servers:
        port = int(server.config.server.http.rpartition(":")[2])
        by_name = {each["name"]: each["containerPort"] for each in server.container["ports"]}
        paths = {}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = server.container[kind]["httpGet"]
            assert by_name.get(asked["port"], asked["port"]) == port
            paths[kind] = asked["path"]
        assert paths["readinessProbe"] == "/readyz"
        assert paths["livenessProbe"] == "/healthz"
        # What comes after a sidecar starts when its startup probe has succeeded: the model among it.
        is_sidecar = server.container in server.pod.sidecars
        assert paths["startupProbe"] == ("/healthz" if is_sidecar else "/readyz")


def test_it_writes_where_it_may(servers):
    for server in servers:
        writable = [
            mount["mountPath"]
            for mount in server.container["volumeMounts"]
            if not mount.get("readOnly")
        ]
        config = server.config
        folders = [each.folder for each in (config.flight_recorder, config.journal) if each]
        paths = [str(each) for each in folders]
        paths += [each.removeprefix("unix:") for each in config.server.grpc if "unix:" in each]
        for path in paths:
            assert any(path.startswith(f"{each}/") for each in writable), path


def test_records_fit_their_volume(servers):
    for server in servers:
        recorder = server.config.flight_recorder
        volume = server.pod.volume("records")["emptyDir"]["sizeLimit"]
        assert volume == "1Gi"
        # A pod is evicted that takes more; one more record is that of a crash.
        assert recorder.max_memory * (recorder.max_files + 2) < 2**30


def test_the_grace_period_has_room_for_the_drain(servers):
    for server in servers:
        settings = server.config.server
        drain_s = (settings.drain_delay + settings.drain_timeout) / SECOND
        grace_s = server.pod.spec["terminationGracePeriodSeconds"]
        # After a sidecar the model's container ends as well.
        ends = 2 if server.container in server.pod.sidecars else 1
        assert grace_s >= drain_s + ends * AFTER_DRAIN_S
        assert settings.drain_delay > 0


def test_a_sidecar_drains_before_the_model_leaves(servers):
    for server in servers:
        lifecycle = server.container.get("lifecycle")
        if server.container not in server.pod.sidecars:
            # SIGTERM comes first here: a hook would only delay it.
            assert lifecycle is None
            continue
        assert lifecycle["preStop"]["exec"]["command"] == ["/bin/sh", "-c", "kill -TERM 1"]
        sockets = [each.removeprefix("unix:") for each in server.config.server.grpc]
        for container in others(server):
            (_, _, script) = container["lifecycle"]["preStop"]["exec"]["command"]
            (waited_for,) = re.findall(r"while \[ -S (\S+) \]", script)
            assert waited_for in sockets
            assert waited_for.rpartition("/")[0] in {
                each["mountPath"] for each in container["volumeMounts"]
            }


def test_sockets_are_in_memory_and_both_sides_have_them(servers):
    for server in servers:
        urls = [model.options.get("url", "") for model in server.config.models]
        paths = [each.removeprefix("unix:") for each in urls if each.startswith("unix:")]
        for path in paths:
            folder = path.rpartition("/")[0]
            for container in server.pod.containers:
                (name,) = [
                    each["name"]
                    for each in container["volumeMounts"]
                    if each["mountPath"] == folder and not each.get("readOnly")
                ]
                assert server.pod.volume(name)["emptyDir"]["medium"] == "Memory"


def test_the_model_s_address_is_one_that_its_container_names(servers):
    for server in servers:
        for model in server.config.models:
            address = model.options.get("url") or model.options.get("args", {}).get("address")
            if address is None:
                continue
            args = " ".join(arg for each in others(server) for arg in each["args"])
            assert address.rpartition(":")[2] in args


def test_starting_may_take_as_long_as_the_model_needs(rendered, servers):
    for server in servers:
        slowest_s = window_s(server.container["startupProbe"])
        for container in others(server):
            if "startupProbe" in container:
                slowest_s += window_s(container["startupProbe"])
                # Else batcher gives up, and starts again, while the model still loads.
                retry = min(model.load_retry_timeout for model in server.config.models)
                assert retry / SECOND >= window_s(container["startupProbe"])
        for deployment in rendered.of("Deployment"):
            if deployment["metadata"]["name"] == server.pod.owner:
                assert deployment["spec"]["progressDeadlineSeconds"] > slowest_s


def test_connections_end_so_that_callers_find_new_replicas(servers):
    for server in servers:
        # gRPC's resolvers ask DNS every 30 s at most: shorter would not help.
        assert server.config.server.max_connection_age == 30 * SECOND


def test_a_rollout_waits_until_callers_know_the_new_replica(rendered, servers):
    for server in servers:
        for deployment in rendered.of("Deployment"):
            if deployment["metadata"]["name"] == server.pod.owner:
                known_s = 1.1 * server.config.server.max_connection_age / SECOND
                assert deployment["spec"]["minReadySeconds"] > known_s + DNS_CACHE_S


def test_messages_fit_the_memory(servers):
    for server in servers:
        (number, unit) = re.fullmatch(
            r"(\d+)(Mi|Gi)", server.container["resources"]["limits"]["memory"]
        ).groups()
        limit = int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]
        buffered = server.config.server.max_buffered or limit // 4
        # Up to four times as much is in memory (docs/running.md), the process itself beside it.
        assert buffered <= limit // 4


def test_reports_have_the_pod_s_name(servers):
    for server in servers:
        (name,) = [each for each in server.container["env"] if each["name"] == "POD_NAME"]
        assert name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_a_gpu_in_the_configuration_is_asked_for(servers):
    for server in servers:
        needs = any(model.device.startswith(("cuda", "gpu")) for model in server.config.models)
        limits = server.container["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == needs
        assert server.container["image"].endswith(":cuda") == needs


def test_plugins_are_in_the_image(servers):
    """`slim` has no runtime; docs/image.md has what is in each."""
    for server in servers:
        slim = server.container["image"].endswith(":slim")
        plugins = {"onnxruntime"} & {model.executor for model in server.config.models}
        assert not (slim and plugins)
