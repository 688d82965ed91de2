"""What a backend is told when Triton loads it: how the engine is to run, and where the artifact lies."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from deploykit.cgroup import available_cores, available_memory
from deploykit.config import EngineConfig
from deploykit.errors import ConfigError
from deploykit.sizes import parse_bytes

ENGINE_VARIABLE: Final = "DEPLOYKIT_ENGINE"
"""Environment variable with a JSON object of `EngineConfig`'s fields, which count more than `config.pbtxt`."""
ENGINES_VARIABLE: Final = "DEPLOYKIT_ENGINES"
"""Environment variable that says how many engines share this machine."""
LOAD_PARAMETER: Final = "DEPLOYKIT_LOAD"
"""Parameter of `config.pbtxt` that counts what `deploykit serve` has had Triton load."""
POINTER: Final = "deploykit-artifact"
"""File in a version's folder that says where the artifact lies; without it, the artifact is that folder itself."""

_SWITCHES: Final = ("log_requests", "log_prompts")

Parameters = Mapping[str, Mapping[str, str]]
"""Those of `config.pbtxt`, as Triton gives them in JSON."""


def engine_config(parameters: Parameters, environment: Mapping[str, str]) -> EngineConfig:
    """Return the engine's settings: those of the environment, else of `config.pbtxt`, else the defaults.

    Parameters in capitals are Triton's own and are passed over.

    Raises:
        ConfigError: an unknown name, or a value that can't be.
    """
    settings: dict[str, Any] = {}
    for name, value in parameters.items():
        if not name.isupper():
            settings[name] = _read("config.pbtxt", name, value["string_value"])
    for name, value in _overrides(environment.get(ENGINE_VARIABLE, "{}")).items():
        _check_name(ENGINE_VARIABLE, name)
        settings[name] = _read(ENGINE_VARIABLE, name, value) if isinstance(value, str) else value
    return EngineConfig(**(_shares(int(environment.get(ENGINES_VARIABLE, "1"))) | settings))


def artifact_folder(version: Path) -> Path:
    """Return the folder of the artifact that a version's folder holds or points to."""
    pointer = version / POINTER
    return Path(pointer.read_text(encoding="utf-8")) if pointer.is_file() else version


def load_number(parameters: Parameters) -> int:
    """Return which load this is; 0 where Triton wasn't started by `deploykit serve`."""
    return int(parameters.get(LOAD_PARAMETER, {}).get("string_value", "0"))


def _shares(engines: int) -> dict[str, int]:
    """Return the threads and the memory of one among several engines; nothing if it is alone and may take all.

    ONNX Runtime's threads wait for each other in busy loops: where there are more of them than cores, one waits for
    another that isn't running. Caches grow as they are needed, so what is free at the start looks free to each.
    """
    if engines <= 1:
        return {}
    # Here, since the engine brings ONNX Runtime with it, which only the backends need.
    from deploykit.engine.budget import DEFAULT_SHARE

    shares = {"threads": max(1, available_cores() // engines)}
    available = available_memory()
    return shares if available is None else {**shares, "cache_memory": int(available * DEFAULT_SHARE / engines)}


def _overrides(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{ENGINE_VARIABLE} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{ENGINE_VARIABLE} must be a JSON object, got {type(value).__name__}")
    return value


def _read(source: str, name: str, value: str) -> Any:
    _check_name(source, name)
    if name == "mode":
        return value
    if name in _SWITCHES:
        # What is neither is named by the settings' own check.
        return {"true": True, "false": False}.get(value.lower(), value)
    try:
        return parse_bytes(value) if name == "cache_memory" else int(value)
    except ConfigError as error:
        raise ConfigError(f"{source}: parameter {name}: {error}") from None
    except ValueError:
        raise ConfigError(f"{source}: parameter {name} must be a whole number, got {value!r}") from None


def _check_name(source: str, name: str) -> None:
    known = sorted(field.name for field in fields(EngineConfig))
    if name not in known:
        raise ConfigError(f"{source}: unknown parameter {name!r}; known are {', '.join(known)}")
