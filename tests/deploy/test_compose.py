"""The compose file holds together: what it names is there, nothing listens beyond the machine, probes really ask."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
import pytest
import yaml
from deploy.alerting import promtool
from deploy.composed import COMPOSE, DOCKER, PROMETHEUS, SERVICES, asks
from stacks import Stack

from deploykit.cli.gateway import gateway
from deploykit.cli.serve import serve
from deploykit.config import GatewayConfig, ServeConfig

OURS: Final = {"triton": serve, "gateway": gateway}

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="prometheus is missing (Debian: prometheus)"
)


def provisioned(folder: str) -> Any:
    (file,) = (DOCKER / "grafana/provisioning" / folder).iterdir()
    return yaml.safe_load(file.read_text())


def source_of(mount: Mapping[str, Any]) -> Path:
    """The file or folder that is mounted where nothing is set."""
    return DOCKER / re.sub(r"\$\{\w+:-(.*)\}", r"\1", mount["source"])


@each_service
def test_a_service_can_do_no_more_than_it_must(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "user", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert all(mount["read_only"] for mount in service["volumes"] if mount["type"] == "bind")
    assert "docker.sock" not in json.dumps(service)


@each_service
def test_a_service_listens_on_this_machine_alone(service: dict[str, Any]) -> None:
    for port in service["ports"]:
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port), port


def test_no_port_is_taken_twice() -> None:
    taken = [port for service in SERVICES.values() for port in service["ports"]]
    assert len(set(taken)) == len(taken)


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in OURS])
def test_images_of_others_are_named_by_version_and_digest(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", SERVICES[name]["image"])


@pytest.mark.parametrize("name", OURS)
def test_our_image_is_built_from_a_dockerfile_that_is_there(name: str) -> None:
    service = SERVICES[name]
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert re.fullmatch(r"deploykit:\d+\.\d+\.\d+-cpu", service["image"])
    assert service["image"] in (DOCKER / "cpu/Dockerfile").read_text()


@each_service
def test_what_a_service_names_is_there(service: dict[str, Any]) -> None:
    for mount in service["volumes"]:
        known = mount["source"] in COMPOSE["volumes"] if mount["type"] == "volume" else source_of(mount).exists()
        assert known, mount
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert set(service.get("depends_on", {})) <= set(SERVICES)
    for name in service.get("depends_on", {}):
        assert SERVICES[name]["healthcheck"]
        assert set(SERVICES[name]["networks"]) & set(service["networks"]), f"can't reach {name}"


@pytest.mark.parametrize("name", OURS)
def test_our_commands_are_ones_that_deploykit_takes(name: str) -> None:
    verb, *arguments = SERVICES[name]["command"]
    assert verb == OURS[name].name
    models = str(source_of(SERVICES[name]["volumes"][0]))
    assert "/models" in arguments
    with OURS[name].make_context(verb, [models if word == "/models" else word for word in arguments]) as context:
        assert context.params["host"] == "0.0.0.0", "or no other container reaches it"
    with pytest.raises(click.NoSuchOption):
        OURS[name].make_context(verb, [models, "--no-such-option"])


def test_open_streams_get_their_time() -> None:
    for name, config in (("triton", ServeConfig), ("gateway", GatewayConfig)):
        given = next(word for word in SERVICES[name]["command"] if word.startswith("--exit-timeout="))
        assert float(given.partition("=")[2]) == config.exit_timeout
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= config.exit_timeout + 10


def test_the_gateway_starts_with_keys_or_not_at_all() -> None:
    assert SERVICES["gateway"]["environment"]["DEPLOYKIT_API_KEYS"].startswith("${DEPLOYKIT_API_KEYS:?")
    (triton,) = (word for word in SERVICES["gateway"]["command"] if word.startswith("--triton="))
    assert triton == f"--triton=triton:{ServeConfig.grpc_port}"


def test_one_reads_the_other() -> None:
    config = yaml.safe_load(PROMETHEUS.read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"triton:{ServeConfig.metrics_port}"]
    (source,) = provisioned("datasources")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = provisioned("dashboards")["providers"]
    inside = {mount["target"]: source_of(mount) for mount in SERVICES["grafana"]["volumes"] if mount["type"] == "bind"}
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert json.loads((inside[str(home.parent)] / home.name).read_text())["panels"]


@needs_prometheus
def test_promtool_takes_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS)


@pytest.mark.triton
def test_our_probes_ask_what_answers(stack: Stack) -> None:
    triton, front = (SERVICES[name]["healthcheck"]["test"] for name in OURS)
    assert asks(triton, ServeConfig.health_port, urlsplit(stack.server.health_url).port)
    assert asks(front, GatewayConfig.port, stack.port)
    # Each has no such page.
    assert not asks(triton, ServeConfig.health_port, stack.port)
    assert not asks(front, GatewayConfig.port, urlsplit(stack.server.health_url).port)
