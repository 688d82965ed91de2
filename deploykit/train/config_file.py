"""The configuration as a file: YAML, a section for each group, and what a search may vary in a section `sweep`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from deploykit.errors import ConfigError, OutputError
from deploykit.train.config import TrainConfig

CONFIG: Final = "train.yaml"
"""The file's name beside a model."""
SWEEP: Final = "sweep"
_FLOAT: Final = re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-3` is a number, though YAML 1.1 wants a point and a sign in it."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def read_config(file: Path) -> tuple[TrainConfig, Mapping[str, Any] | None]:
    """Return the configuration in a file, and what its section `sweep` says, if it has one.

    Raises:
        ConfigError: the file can't be read, or says what can't be.
    """
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # The last two: a date that isn't in the calendar, a number of thousands of digits, brackets without end.
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict | None):
        raise ConfigError(f"{file}: must hold options by name, not {type(data).__name__}")
    options = dict(data or {})
    sweep = options.pop(SWEEP, None)
    if not isinstance(sweep, dict | None):
        raise ConfigError(f"{file}: sweep must be a section, got {sweep!r}")
    try:
        return TrainConfig.from_json(options), sweep
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def write_config(file: Path, config: TrainConfig) -> None:
    """Write every option, such that `read_config` gives it back; whatever happens, the file is whole.

    Raises:
        OutputError: the disk is full.
    """
    beside = file.with_name(f".{file.name}.partial")
    try:
        beside.write_text(yaml.safe_dump(config.to_json(), sort_keys=False), encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise OutputError(f"{file}: can't be written: {error.strerror or error}; make room") from error
