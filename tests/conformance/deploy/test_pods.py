"""Each pod: what it may do, where it writes, which ports it opens, and what is mounted where."""

import re

import pytest

MI = 2**20

pytestmark = pytest.mark.conformance


def size(text):
    """Bytes of a quantity in Ki, Mi or Gi."""
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", text).groups()
    return int(number) * {"Ki": 2**10, "Mi": MI, "Gi": 2**30}[unit]


def mounts(pod, container):
    """Mount path -> the volume, and whether the container may write there."""
    return {
        each["mountPath"]: (pod.volume(each["name"]), not each.get("readOnly", False))
        for each in container.get("volumeMounts", [])
    }


def test_no_container_is_root_or_may_become_more_than_it_is(rendered):
    for pod in rendered.pods:
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        # A number: the kubelet cannot tell whether a name is root.
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 65532
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(pod.spec)
        for container in pod.containers:
            of_container = container["securityContext"]
            assert of_container["allowPrivilegeEscalation"] is False
            assert of_container["readOnlyRootFilesystem"] is True
            assert of_container["capabilities"] == {"drop": ["ALL"]}
            # One user for all: a Unix socket takes no connections of another one.
            assert not {"runAsUser", "runAsGroup", "privileged"} & set(of_container)


def test_a_token_of_the_cluster_is_given_only_where_a_role_says_what_for(rendered):
    bound = {
        subject["name"]
        for binding in rendered.of("RoleBinding", "ClusterRoleBinding")
        for subject in binding["subjects"]
    }
    for pod in rendered.pods:
        if pod.spec.get("automountServiceAccountToken") is not False:
            assert pod.spec["serviceAccountName"] in bound


def test_images_have_a_tag_that_stays_and_a_name_to_be_replaced(rendered):
    for pod in rendered.pods:
        for container in pod.containers:
            name, _, tag = container["image"].partition(":")
            assert "/" not in name, "a placeholder, for `kustomize edit set image`"
            assert tag, container["image"]
            assert tag != "latest"


def test_there_are_no_secrets(rendered):
    assert not rendered.of("Secret")


def test_what_is_mounted_is_there_and_each_volume_is_used(rendered):
    for pod in rendered.pods:
        used = set()
        for container in pod.containers:
            paths = [each["mountPath"] for each in container.get("volumeMounts", [])]
            assert len(paths) == len(set(paths))
            assert not any("subPath" in each for each in container.get("volumeMounts", []))
            used |= {volume["name"] for volume, _ in mounts(pod, container).values()}
            for volume, _ in mounts(pod, container).values():
                if "configMap" in volume:
                    rendered.one("ConfigMap", volume["configMap"]["name"])
        assert used == {each["name"] for each in pod.spec.get("volumes", [])}


def test_a_root_that_is_read_only_leaves_room_for_temporary_files(rendered):
    for pod in rendered.pods:
        for container in pod.containers:
            volume, writable = mounts(pod, container)["/tmp"]
            assert writable
            assert size(volume["emptyDir"]["sizeLimit"])


def test_volumes_of_the_node_have_a_limit(rendered):
    for pod in rendered.pods:
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume:
                assert size(volume["emptyDir"]["sizeLimit"])


def test_memory_has_a_limit_and_is_asked_for(rendered):
    for pod in rendered.pods:
        for container in pod.containers:
            limits, requests = (container["resources"][kind] for kind in ("limits", "requests"))
            # Equal: the scheduler counts on what the container may take, and no neighbor pays for it.
            assert limits["memory"] == requests["memory"]
            assert "cpu" in requests
            assert "cpu" not in limits, "a container that is stopped for a part of 100 ms is late"


def test_what_is_written_to_memory_fits_the_limits_of_those_who_may_write_it(rendered):
    for pod in rendered.pods:
        for container in pod.containers:
            in_memory = sum(
                size(volume["emptyDir"]["sizeLimit"])
                for volume, writable in mounts(pod, container).values()
                if writable and volume.get("emptyDir", {}).get("medium") == "Memory"
            )
            assert in_memory <= size(container["resources"]["limits"]["memory"]) / 2


def test_ports_of_a_pod_are_told_apart(rendered):
    for pod in rendered.pods:
        ports = [port for container in pod.containers for port in container.get("ports", [])]
        assert len(ports) == len({port["containerPort"] for port in ports})
        assert len(ports) == len({port["name"] for port in ports})
        assert all(len(port["name"]) <= 15 for port in ports)


def test_probes_ask_ports_of_their_container(rendered):
    for pod in rendered.pods:
        for container in pod.containers:
            ports = container.get("ports", [])
            known = {port["name"] for port in ports} | {port["containerPort"] for port in ports}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                if kind in container:
                    # No command: it would be a process every few seconds.
                    (asked,) = {"httpGet", "grpc", "tcpSocket"} & set(container[kind])
                    assert container[kind][asked]["port"] in known
                    assert "host" not in container[kind][asked]


def test_pods_spread(rendered):
    for pod in rendered.pods:
        for spread in pod.spec.get("topologySpreadConstraints", []):
            assert spread["labelSelector"]["matchLabels"].items() <= pod.labels.items()
            # A cluster of one node, or without room elsewhere, still starts pods.
            assert spread["whenUnsatisfiable"] == "ScheduleAnyway"


def test_a_gpu_is_for_one_container_and_for_nodes_that_are_kept_for_it(rendered):
    for pod in rendered.pods:
        with_gpu = [c for c in pod.containers if "nvidia.com/gpu" in c["resources"]["limits"]]
        assert len(with_gpu) <= 1
        tolerated = {each["key"] for each in pod.spec.get("tolerations", [])}
        assert bool(with_gpu) == ("nvidia.com/gpu" in tolerated)
        # Of init containers only sidecars keep what they asked for.
        assert not any(c in pod.spec.get("initContainers", []) for c in with_gpu)


def test_rollouts_can_go_on(rendered):
    for deployment in rendered.of("Deployment"):
        rolling = deployment["spec"].get("strategy", {}).get("rollingUpdate", {})
        assert {rolling.get("maxUnavailable"), rolling.get("maxSurge")} != {0}
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_vllm_knows_a_name_of_its_user_and_sends_no_statistics(rendered):
    """`getpass.getuser`, which PyTorch calls, fails for a user that the image does not know, unless told a name."""
    for pod in rendered.pods:
        for container in pod.containers:
            if container["image"].startswith("vllm:"):
                told = {each["name"]: each.get("value") for each in container["env"]}
                assert told["USER"]
                assert told["VLLM_NO_USAGE_STATS"] == "1"
