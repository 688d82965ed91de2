from collections.abc import Mapping
from typing import Any

import click
import pytest

from deploykit.cli.main import commands
from deploykit.config import GatewayConfig, ServeConfig
from deploykit.deploy.check import flags
from deploykit.deploy.check.commands import Server, parse, unknown_verb
from deploykit.deploy.check.manifests import Container


def container(*command: str, args: list[str] | None = None, **more: Any) -> Container:
    body: dict[str, Any] = {"name": "main", "command": list(command), **more}
    if args is not None:
        body["args"] = args
    return Container(body=body, path="spec.containers[0]", kind="containers")


def server(*command: str, **more: Any) -> Server:
    found = parse(container(*command, **more))
    assert found is not None
    return found


def takes(option: click.Option) -> str:
    if option.is_flag:
        return "nothing"
    if isinstance(option.type, click.Choice):
        return next(name for name, choices in flags.CHOICES.items() if list(choices) == list(option.type.choices))
    if option.callback is not None:
        return "bytes"
    return {"integer": "int", "float": "float"}.get(option.type.name, "text")


@pytest.mark.parametrize("verb", [verb for verb in flags.FLAGS if verb in commands.commands])
def test_knows_the_options_of_the_command_line_and_no_others(verb: str) -> None:
    there = {
        flag: takes(option)
        for option in commands.commands[verb].params
        if isinstance(option, click.Option)
        for flag in (*option.opts, *option.secondary_opts)
    }
    assert flags.FLAGS[verb] == there | {"-h": "nothing", "--help": "nothing"}


def test_knows_the_verbs() -> None:
    assert set(commands.commands) <= set(flags.VERBS)


def test_serve_has_the_defaults_of_its_configuration() -> None:
    found = server("deploykit", "serve", "/models")
    assert found.ports == {"http": 8000, "grpc": 8001, "metrics": 8002, "health": 8003}
    assert set(found.hosts.values()) == {"127.0.0.1"}
    assert found.exit_timeout == ServeConfig.exit_timeout
    assert found.startup_timeout == ServeConfig.startup_timeout
    assert found.heartbeat_timeout == ServeConfig.heartbeat_timeout
    assert found.models == ("/models",)
    assert not found.problems


def test_serve_takes_flags_with_and_without_a_sign_in_command_and_args() -> None:
    found = server(
        "/usr/local/bin/deploykit", "serve", "/models", "--host", "0.0.0.0", "--http-port", "9001",
        args=["--grpc-port=9002", "--exit-timeout=45", "--threads=3", "--cache-memory=2GiB", "--max-rows=4"],
    )  # fmt: skip
    assert found.ports == {"http": 9001, "grpc": 9002, "metrics": 8002, "health": 8003}
    assert found.hosts["health"] == "0.0.0.0"
    assert found.exit_timeout == 45
    assert found.engine is not None
    assert (found.engine.threads, found.engine.cache_memory, found.engine.max_rows) == (3, 2 * 2**30, 4)
    assert found.field("--grpc-port") == "args[0]"
    assert found.field("--http-port") == "command[5]"
    assert found.field("--metrics-port") == "args"


def test_serve_with_a_gateway_listens_there_as_well() -> None:
    found = server("deploykit", "serve", "/models", "--openai-port=9000", "--api-keys=/keys")
    assert found.ports["openai"] == 9000
    assert found.answers("openai", "/health/live")
    assert found.guarded == {"/metrics", "/v1/models", "/v1/models/*", "/openapi.json"}


@pytest.mark.parametrize(
    ("port", "path", "answers"),
    [
        ("health", "/v2/health/live", True),
        ("health", "/v2/health/ready?verbose=1", True),
        ("health", "/health", False),
        ("http", "/v2/health/ready", True),
        ("http", "/v2/models/writer/ready", True),
        ("http", "/metrics", False),
        ("metrics", "/metrics", True),
        ("grpc", "/v2/health/ready", False),
        ("openai", "/health", False),
    ],
)
def test_serve_answers_its_own_paths(port: str, path: str, answers: bool) -> None:
    assert server("deploykit", "serve", "/models").answers(port, path) is answers


def test_gateway_has_the_defaults_of_its_configuration() -> None:
    found = server("deploykit", "gateway", "/models")
    assert found.ports == {"openai": GatewayConfig.port}
    assert found.hosts == {"openai": GatewayConfig.host}
    assert found.triton == GatewayConfig.triton
    assert found.exit_timeout == GatewayConfig.exit_timeout
    assert not found.guarded


@pytest.mark.parametrize("access", ["open", "off", "key"])
def test_gateway_says_which_paths_want_a_key(access: str) -> None:
    keys = {"env": [{"name": "DEPLOYKIT_API_KEYS", "valueFrom": {"secretKeyRef": {"name": "k", "key": "keys"}}}]}
    found = server("deploykit", "gateway", "/models", f"--metrics-access={access}", **keys)
    assert found.answers("openai", "/metrics") is (access != "off")
    assert ("/metrics" in found.guarded) is (access == "key")
    assert "/v1/models" in found.guarded


def test_pull_knows_source_and_target() -> None:
    found = server("deploykit", "pull", "s3://bucket/model", "-o", "/models", "--fingerprint", "ab12")
    assert (found.models, found.output, found.problems) == (("s3://bucket/model",), "/models", ())
    assert server("deploykit", "pull", "s3://bucket/model", "-o/models").output == "/models"


def test_triton_has_its_defaults() -> None:
    found = server("tritonserver", "--model-repository=/models")
    assert found.ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert set(found.hosts.values()) == {"0.0.0.0"}
    assert found.exit_timeout == 30
    assert found.models == ("/models",)
    assert not found.problems


def test_triton_listens_where_it_is_told() -> None:
    found = server(
        "tritonserver", "--model-store", "/m", "--http-port", "9000", "--allow-metrics=false", "--exit-timeout-secs=90",
        "--grpc-address=127.0.0.1",
    )  # fmt: skip
    assert found.ports == {"http": 9000, "grpc": 8001}
    assert found.hosts == {"http": "0.0.0.0", "grpc": "127.0.0.1"}
    assert found.exit_timeout == 90
    assert not found.answers("metrics", "/metrics")


@pytest.mark.parametrize(
    ("command", "args"),
    [
        (["sh", "-c", "exec deploykit serve /models --http-port=7000"], None),
        (["/bin/bash", "-ec"], ["deploykit serve /models \\\n  --http-port=7000"]),
        (["tini", "-g", "--", "deploykit"], ["serve", "/models", "--http-port=7000"]),
        (["python3", "-P", "-m", "deploykit", "serve", "/models", "--http-port=7000"], None),
        (["env", "A=b", "deploykit", "serve", "/models", "--http-port=7000"], None),
        (["deploykit", "serve", "--http-port=$(PORT)", "--", "/models"], None),
        (["sh", "-c", "deploykit serve /models --http-port=${PORT}"], None),
        ([], ["serve", "/models", "--http-port", "7000"]),
    ],
)
def test_sees_through_what_starts_it(command: list[str], args: list[str] | None) -> None:
    env = [{"name": "PORT", "value": "7000"}]
    found = server(*command, args=args, env=env, image="example.com/deploykit-writer:1")
    assert found.ports["http"] == 7000
    assert found.models == ("/models",)
    assert not found.problems


@pytest.mark.parametrize(
    "command",
    [
        ["nginx", "-g", "daemon off;"],
        ["sh", "-c", "sleep 5; deploykit serve /models"],
        ["sh", "-c", "deploykit serve $(cat /models)"],
        ["sh", "-c", "deploykit 'serve"],
        ["sh"],
        ["python3", "server.py"],
        ["deploykit", "generate", "/models", "Hello"],
        [],
    ],
)
def test_says_nothing_of_what_it_does_not_know(command: list[str]) -> None:
    assert parse(container(*command)) is None
    assert unknown_verb(container(*command)) is None


def test_args_alone_say_nothing_of_another_image() -> None:
    assert parse(container(args=["serve", "/models"], image="example.com/bentoml:1")) is None


def test_leaves_out_what_a_variable_decides() -> None:
    env = [{"name": "PORT", "valueFrom": {"configMapKeyRef": {"name": "ports", "key": "http"}}}]
    found = server("deploykit", "serve", "$(ROOT)", "--http-port=$(PORT)", "--exit-timeout=$(WAIT)", env=env)
    assert found.ports == {"grpc": 8001, "metrics": 8002, "health": 8003}
    assert found.exit_timeout is None
    assert found.models == ()
    assert not found.problems


@pytest.mark.parametrize(
    ("command", "field", "said"),
    [
        (["deploykit", "serve", "/m", "--htp-port=1"], "command[3]", "has no option --htp-port.*write --http-port"),
        (["deploykit", "serve", "/m", "--http-port=many"], "command[3]", "wants a whole number"),
        (["deploykit", "serve", "/m", "--http-port=99999"], "command[3]", "0 to 65535, got 99999"),
        (["deploykit", "serve", "/m", "--exit-timeout=0"], "command[3]", "at least 1 s"),
        (["deploykit", "serve", "/m", "--cache-memory=2Gigs"], "command[3]", "wants an amount of memory"),
        (["deploykit", "serve", "/m", "--mode=fast"], "command[3]", "one of deterministic, throughput"),
        (["deploykit", "serve", "/m", "--log-prompts"], "command[3]", "log_prompts"),
        (["deploykit", "serve", "/m", "--json=true"], "command[3]", "takes no value"),
        (["deploykit", "serve", "/m", "--host"], "command[3]", "wants a value"),
        (["deploykit", "serve"], "args", "wants a folder of models"),
        (["deploykit", "serve", "/m", "--api-keys=/k"], "command[3]", "no gateway.*--openai-port"),
        (["deploykit", "serve", "/m", "--port=9000"], "command[3]", "has no option --port"),
        (["deploykit", "gateway", "/m", "--triton=http://localhost:8000"], "command[3]", "HTTP endpoint"),
        (["deploykit", "gateway", "/m", "--cors-origin=example"], "command[3]", "no origin"),
        (["deploykit", "gateway", "/m", "--max-body=1"], "command[3]", "at least 1024"),
        (["deploykit", "pull", "s3://b/m"], "args", "add -o DIR"),
        (["tritonserver"], "args", "without a model repository"),
        (["tritonserver", "--model-repository=/m", "--http-prt=1"], "command[2]", "write --http-port"),
        (["tritonserver", "--model-repository=/m", "--exit-timeout-secs=30s"], "command[2]", "whole number"),
    ],
)
def test_names_what_a_command_refuses(command: list[str], field: str, said: str) -> None:
    import re

    problems = server(*command).problems
    assert [problem.field for problem in problems] == [field]
    assert re.search(said, f"{problems[0].why}; {problems[0].remedy}")


def test_names_a_verb_that_does_not_exist() -> None:
    problem = unknown_verb(container("deploykit", args=["server", "/models"]))
    assert problem is not None
    assert (problem.field, problem.remedy) == ("args[0]", "write serve")


def test_a_flag_given_twice_counts_as_it_was_given_last() -> None:
    options: Mapping[str, Any] = server("deploykit", "serve", "/m", "--http-port=1", "--http-port=2").options
    assert options["--http-port"].value == 2
