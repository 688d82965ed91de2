"""What the base promises: restricted pods, guaranteed resources, an orderly life, closed networks."""

from pathlib import Path
from typing import Any

import click
import pytest
from deployments import FACTS, NAME, Object, build, container_of, containers, find, pod_of, write

from deploykit.cli.gateway import gateway
from deploykit.cli.serve import serve
from deploykit.config import EngineConfig
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.sizing import SHM, size_pod

MIB = 2**20


def mebibytes(quantity: str) -> int:
    assert quantity.endswith("Mi")
    return int(quantity.removesuffix("Mi"))


def test_pods_are_restricted(everything: list[Object]) -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, field by field.
    pod = pod_of(everything)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(volume.keys() - {"name"} <= allowed for volume in pod["volumes"])
    assert [each["name"] for each in containers(pod)] == ["fetch", "gateway", "triton"]
    for each in containers(pod):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "privileged": False,
            "readOnlyRootFilesystem": True, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert not any("hostPort" in port for port in each.get("ports", []))


def test_pods_have_no_token_and_no_variables_of_other_services(plain: list[Object]) -> None:
    pod = pod_of(plain)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["serviceAccountName"] == NAME
    assert find(plain, "ServiceAccount")["automountServiceAccountToken"] is False


def test_every_container_gets_exactly_what_it_asks_for(everything: list[Object]) -> None:
    for each in containers(pod_of(everything)):
        assert each["resources"]["requests"] == each["resources"]["limits"], each["name"]
        assert each["resources"]["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}


def test_volumes_are_bounded_and_within_the_limits(everything: list[Object]) -> None:
    pod = pod_of(everything)
    limits = container_of(everything)["resources"]["limits"]
    empty = {each["name"]: each["emptyDir"] for each in pod["volumes"] if "emptyDir" in each}
    on_disk = sum(mebibytes(each["sizeLimit"]) for each in empty.values() if "medium" not in each)
    assert on_disk < mebibytes(limits["ephemeral-storage"])
    assert empty["shm"]["medium"] == "Memory"
    assert 64 <= mebibytes(empty["shm"]["sizeLimit"]) < mebibytes(limits["memory"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(everything)["volumeMounts"]}
    assert (mounts["tmp"], mounts["shm"], mounts["models"]) == ("/tmp", SHM, "/models")


def test_every_mount_has_its_volume(everything: list[Object]) -> None:
    pod = pod_of(everything)
    mounted = {mount["name"] for each in containers(pod) for mount in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def options(command: click.Command, container: Object) -> dict[str, Any]:
    """Return a container's options as its command understands them."""
    assert container["command"] == ["deploykit"]
    assert container["args"][0] == command.name
    context = click.Context(command)
    given, _, _ = command.make_parser(context).parse_args(list(container["args"][1:]))
    assert tuple(given["artifacts"]) == ("/models",)
    types = {option.name: option.type for option in command.params}
    return {name: types[name].convert(value, None, context) for name, value in given.items() if name != "artifacts"}


def test_serve_takes_the_command_line(plain: list[Object]) -> None:
    sizing = size_pod(FACTS, DeployConfig())
    given = options(serve, container_of(plain))
    expected = {
        "host": "0.0.0.0", "http_port": 8000, "grpc_port": 8001, "metrics_port": 8002, "health_port": 8003,
        "max_rows": FACTS.rows, "max_context": FACTS.context, "cache_memory": str(sizing.cache), "threads": 2,
        "startup_timeout": sizing.startup_seconds, "heartbeat_timeout": 15, "exit_timeout": 30, "connection_age": 7.5,
    }  # fmt: skip
    assert given == expected


def test_serve_takes_the_other_settings_of_an_engine(tmp_path: Path) -> None:
    engine = EngineConfig(mode="throughput", max_queue=5, prefill_chunk=32, log_requests=True, log_prompts=True)
    given = options(serve, container_of(build(write(tmp_path, DeployConfig(engine=engine, cpu=4)))))
    assert given["threads"] == 4
    assert (given["mode"], given["max_queue"], given["prefill_chunk"]) == ("throughput", 5, 32)
    assert given["log_requests"]
    assert given["log_prompts"]


def test_the_gateway_takes_its_command_line(everything: list[Object]) -> None:
    given = options(gateway, container_of(everything, "gateway"))
    assert given["triton"] == "localhost:8001"
    assert given["host"] == "0.0.0.0"
    assert given["api_keys"]


def test_ports_are_named_and_agree_with_the_command_line(everything: list[Object]) -> None:
    ports = {port["name"]: port["containerPort"] for port in container_of(everything)["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002, "health": 8003}
    every = [port for each in containers(pod_of(everything)) for port in each.get("ports", [])]
    assert len({port["name"] for port in every}) == len({port["containerPort"] for port in every}) == len(every) == 5
    assert all(len(port["name"]) <= 15 for port in every)


def test_probes_ask_the_heartbeat_and_wait_for_the_load(plain: list[Object]) -> None:
    triton = container_of(plain)
    asked = {kind: triton[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {(each["port"], each["path"]) for each in asked.values()} == {
        ("health", "/v2/health/ready"), ("health", "/v2/health/live"),
    }  # fmt: skip
    assert asked["liveness"]["path"] == "/v2/health/live"
    assert (triton["startupProbe"]["periodSeconds"], triton["startupProbe"]["failureThreshold"]) == (5, 60)
    assert (triton["readinessProbe"]["periodSeconds"], triton["readinessProbe"]["failureThreshold"]) == (5, 3)
    assert (triton["livenessProbe"]["periodSeconds"], triton["livenessProbe"]["failureThreshold"]) == (10, 6)
    assert triton["livenessProbe"]["successThreshold"] == triton["startupProbe"]["successThreshold"] == 1


def test_a_rollout_waits_for_the_start(plain: list[Object]) -> None:
    spec = find(plain, "Deployment")["spec"]
    assert spec["progressDeadlineSeconds"] > 5 * 60 + spec["minReadySeconds"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec["revisionHistoryLimit"] == 3
    assert spec["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "triton"


@pytest.mark.parametrize("with_gateway", [False, True])
def test_the_end_has_time_for_the_pause_and_the_streams(with_gateway: bool, tmp_path: Path) -> None:
    config = DeployConfig(pre_stop=20, exit_timeout=45, gateway=with_gateway)
    objects = build(write(tmp_path, config))
    pauses = {
        each["name"]: int(each["lifecycle"]["preStop"]["exec"]["command"][1]) for each in containers(pod_of(objects))
    }
    grace = pod_of(objects)["terminationGracePeriodSeconds"]
    assert grace == 20 + 45 + 10
    assert pauses["triton"] + 45 < grace
    assert options(serve, container_of(objects))["exit_timeout"] == 45
    if with_gateway:
        # What it takes at its last moment must still find Triton.
        assert 20 == pauses["gateway"] < pauses["triton"]


def test_pods_spread_but_a_single_node_will_do(plain: list[Object]) -> None:
    spread = pod_of(plain)["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}


def test_everything_selects_the_pods(plain: list[Object]) -> None:
    labels = find(plain, "Deployment")["spec"]["template"]["metadata"]["labels"]
    by_name_and_instance = {key: labels[f"app.kubernetes.io/{key}"] for key in ("name", "instance")}
    expected = {f"app.kubernetes.io/{key}": value for key, value in by_name_and_instance.items()}
    assert find(plain, "Deployment")["spec"]["selector"] == {"matchLabels": expected}
    assert find(plain, "Service")["spec"]["selector"] == expected
    assert find(plain, "Service", f"{NAME}-headless")["spec"]["selector"] == expected
    assert find(plain, "PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": expected}
    assert find(plain, "NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": expected}
    for spread in pod_of(plain)["topologySpreadConstraints"]:
        assert spread["labelSelector"] == {"matchLabels": expected}


def test_services_offer_grpc_and_no_http_of_tritons(plain: list[Object], everything: list[Object]) -> None:
    assert [port["name"] for port in find(plain, "Service")["spec"]["ports"]] == ["grpc"]
    headless = find(plain, "Service", f"{NAME}-headless")["spec"]
    assert headless["clusterIP"] == "None"
    assert [(port["name"], port["port"], port["appProtocol"]) for port in headless["ports"]] == [
        ("grpc", 8001, "kubernetes.io/h2c")
    ]
    offered = {
        port["name"]: (port["port"], port["targetPort"]) for port in find(everything, "Service")["spec"]["ports"]
    }
    assert offered == {"grpc": (8001, "grpc"), "openai": (9000, "openai")}


def test_the_budget_lets_nodes_drain(plain: list[Object]) -> None:
    spec = find(plain, "PodDisruptionBudget")["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert "minAvailable" not in spec


def test_networks_are_closed_but_for_what_is_needed(plain: list[Object], everything: list[Object]) -> None:
    spec = find(plain, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert ways(spec["ingress"], "from") == {
        8001: [{"podSelector": {}}],
        8002: [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    }
    (names,) = spec["egress"]
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert "0.0.0.0/0" not in str(names)
    more = find(everything, "NetworkPolicy")["spec"]
    assert ways(more["ingress"], "from")[9000] == [{"namespaceSelector": {}}]
    assert [rule["ports"] for rule in more["egress"][1:]] == [[{"port": 443, "protocol": "TCP"}]]


def ways(rules: list[Object], end: str) -> dict[int, list[Object]]:
    """Return who is let in at each port."""
    return {port["port"]: rule[end] for rule in rules for port in rule["ports"]}
