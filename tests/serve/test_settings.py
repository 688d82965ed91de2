"""How the engine is to run, from the environment and from config.pbtxt."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deploykit.cgroup import available_cores, available_memory
from deploykit.config import EngineConfig, ServeConfig
from deploykit.errors import ConfigError
from deploykit.serve.settings import (
    ENGINE_VARIABLE,
    ENGINES_VARIABLE,
    LOAD_PARAMETER,
    POINTER,
    artifact_folder,
    engine_config,
    load_number,
)


def parameters(**values: str) -> dict[str, dict[str, str]]:
    return {name: {"string_value": value} for name, value in values.items()}


def test_says_nothing_and_gets_the_defaults() -> None:
    assert engine_config({}, {}) == EngineConfig()


def test_the_environment_counts_more_than_the_file_and_both_more_than_the_defaults() -> None:
    written = parameters(max_rows="3", max_queue="5", cache_memory="2MiB", FORCE_CPU_ONLY_INPUT_TENSORS="no")
    given = {ENGINE_VARIABLE: json.dumps({"max_rows": 4, "mode": "throughput"})}
    assert engine_config(written, given) == EngineConfig(max_rows=4, max_queue=5, cache_memory=2**21, mode="throughput")
    assert engine_config(parameters(log_requests="True", log_prompts="false"), {}) == EngineConfig(log_requests=True)
    # The environment spells an amount of memory as the option does, or in bytes.
    for amount in ("3MiB", 3 * 2**20):
        assert engine_config({}, {ENGINE_VARIABLE: json.dumps({"cache_memory": amount})}).cache_memory == 3 * 2**20


@pytest.mark.parametrize(
    ("written", "environment", "message"),
    [
        (
            parameters(max_cue="3"),
            {},
            r"config\.pbtxt: unknown parameter 'max_cue'; known are cache_memory, log_prompts",
        ),
        (parameters(max_rows="many"), {}, r"config\.pbtxt: parameter max_rows must be a whole number, got 'many'"),
        (parameters(cache_memory="much"), {}, r"config\.pbtxt: parameter cache_memory: 'much' is no amount of memory"),
        (parameters(log_requests="yes"), {}, "log_requests must be true or false, got 'yes'"),
        (parameters(log_prompts="true"), {}, "log_prompts is true, but log_requests is not; set both, or neither"),
        ({}, {ENGINE_VARIABLE: '{"log_requests": 1}'}, "log_requests must be true or false, got 1"),
        (parameters(mode="fast"), {}, "mode must be one of deterministic, throughput; got 'fast'"),
        ({}, {ENGINE_VARIABLE: '{"max_cue": 3}'}, "DEPLOYKIT_ENGINE: unknown parameter 'max_cue'"),
        ({}, {ENGINE_VARIABLE: "{"}, "DEPLOYKIT_ENGINE is not valid JSON"),
        ({}, {ENGINE_VARIABLE: "[]"}, "DEPLOYKIT_ENGINE must be a JSON object, got list"),
        ({}, {ENGINE_VARIABLE: '{"max_rows": 0}'}, "max_rows must be at least 1"),
        ({}, {ENGINE_VARIABLE: '{"max_rows": 4.5}'}, r"max_rows must be a whole number, got 4\.5"),
        ({}, {ENGINE_VARIABLE: '{"max_queue": null}'}, "max_queue must be a whole number, got None"),
        ({}, {ENGINE_VARIABLE: '{"threads": true}'}, "threads must be a whole number, got True"),
        ({}, {ENGINE_VARIABLE: '{"cache_memory": "much"}'}, "DEPLOYKIT_ENGINE: parameter cache_memory: 'much' is no"),
    ],
)
def test_what_can_not_be_is_named(written: Any, environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_config(written, environment)


@pytest.mark.parametrize(("engines", "threads"), [("1", None), ("2", max(1, available_cores() // 2)), ("99999", 1)])
def test_several_engines_share_cores_and_memory(engines: str, threads: int | None) -> None:
    config = engine_config({}, {ENGINES_VARIABLE: engines})
    assert config.threads == threads
    available = available_memory()
    assert available is not None
    assert (config.cache_memory is None) == (engines == "1")
    assert (config.cache_memory or 0) * int(engines) <= available
    chosen = engine_config(parameters(threads="7", cache_memory="5"), {ENGINES_VARIABLE: engines})
    assert (chosen.threads, chosen.cache_memory) == (7, 5)


def test_a_pointer_says_where_the_artifact_lies(tmp_path: Path) -> None:
    assert artifact_folder(tmp_path) == tmp_path
    (tmp_path / POINTER).write_text("/else/where")
    assert artifact_folder(tmp_path) == Path("/else/where")


def test_loads_are_counted_only_where_somebody_counts() -> None:
    assert load_number({}) == 0
    assert load_number(parameters(**{LOAD_PARAMETER: "12"})) == 12


def test_a_server_refuses_settings_that_no_engine_has() -> None:
    with pytest.raises(ConfigError, match="engine has no setting max_cue"):
        ServeConfig(engine={"max_cue": 3})
    with pytest.raises(ConfigError, match="max_rows must be at least 1"):
        ServeConfig(engine={"max_rows": 0})
    assert ENGINE_VARIABLE not in os.environ
