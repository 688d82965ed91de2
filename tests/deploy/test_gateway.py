"""OpenAI's API in a container beside Triton's."""

from pathlib import Path

import pytest
from deployments import FACTS, NAME, Object, build, container_of, find, pod_of, write

from deploykit.cli.gateway import gateway
from deploykit.cli.serve import serve
from deploykit.deploy.config import DeployConfig

CONFIG = DeployConfig(gateway=True, pre_stop=20, exit_timeout=40)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    return build(write(tmp_path_factory.mktemp("gateway"), CONFIG))


def seconds_before_the_end(container: Object) -> int:
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    return int(seconds)


def test_runs_a_command_that_is_one(objects: list[Object]) -> None:
    container = container_of(objects, "gateway")
    verb, *args = container["args"]
    assert (container["command"], verb) == (["deploykit"], "gateway")
    options = gateway.make_context("gateway", list(args)).params
    assert options["artifacts"] == (Path("/models"),)
    assert options["host"] == "0.0.0.0"
    assert container["ports"] == [{"name": "openai", "containerPort": options["port"], "protocol": "TCP"}]


def test_asks_the_triton_of_its_pod(objects: list[Object]) -> None:
    _, *args = container_of(objects)["args"]
    _, *asking = container_of(objects, "gateway")["args"]
    port = serve.make_context("serve", list(args)).params["grpc_port"]
    assert gateway.make_context("gateway", list(asking)).params["triton"] == f"localhost:{port}"


def test_lets_nobody_in_without_a_key(objects: list[Object]) -> None:
    container = container_of(objects, "gateway")
    _, *args = container["args"]
    file = gateway.make_context("gateway", list(args)).params["api_keys"]
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == str(file.parent)]
    (volume,) = [each for each in pod_of(objects)["volumes"] if each["name"] == mount["name"]]
    secret = volume["secret"]
    # Not optional, and neither is the key: a pod without it doesn't start.
    assert not secret.get("optional")
    assert secret["items"] == [{"key": "keys", "path": file.name}]
    assert find(objects, "Deployment")["metadata"]["annotations"]["deploykit/needs"] == f"secret/{secret['secretName']}"
    assert "api-keys" not in {each["name"] for each in container_of(objects)["volumeMounts"]}


@pytest.mark.parametrize(("given", "expected"), [(None, f"{NAME}-api-keys"), ("callers", "callers")])
def test_takes_the_secret_that_is_named(given: str | None, expected: str, tmp_path: Path) -> None:
    objects = build(write(tmp_path, DeployConfig(gateway=True, api_keys_secret=given)))
    assert [each["secret"]["secretName"] for each in pod_of(objects)["volumes"] if "secret" in each] == [expected]


def test_is_ready_with_triton_and_alive_without(objects: list[Object]) -> None:
    container = container_of(objects, "gateway")
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health/live", "readiness": "/health", "liveness": "/health/live"}
    assert {container[f"{name}Probe"]["httpGet"]["port"] for name in paths} == {"openai"}


def test_ends_before_triton_and_both_within_the_grace_period(objects: list[Object]) -> None:
    first, last = (seconds_before_the_end(container_of(objects, each)) for each in ("gateway", "triton"))
    assert CONFIG.pre_stop == first < last
    for name in ("gateway", "triton"):
        assert f"--exit-timeout={CONFIG.exit_timeout}" in container_of(objects, name)["args"]
    assert last + CONFIG.exit_timeout < pod_of(objects)["terminationGracePeriodSeconds"]


def test_is_as_restricted_as_triton(objects: list[Object]) -> None:
    ours, triton = container_of(objects, "gateway"), container_of(objects)
    assert ours["securityContext"] == triton["securityContext"]
    assert ours["resources"]["requests"] == ours["resources"]["limits"]
    assert ours["resources"]["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}


def test_is_reached_by_its_own_port_beside_grpc(objects: list[Object]) -> None:
    ports = {each["name"]: each["targetPort"] for each in find(objects, "Service")["spec"]["ports"]}
    assert ports == {"grpc": "grpc", "openai": "openai"}


def test_leaves_triton_as_it_is_but_for_the_end(objects: list[Object], plain: list[Object]) -> None:
    own = ("args", "lifecycle")
    with_it, without = container_of(objects), container_of(plain)
    assert {k: v for k, v in with_it.items() if k not in own} == {k: v for k, v in without.items() if k not in own}
    assert FACTS.has_chat_template is False  # completions alone: nothing of it in the manifests
