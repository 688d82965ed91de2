"""The Triton models packaged in an artifact or repository."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from deploykit.artifact import REPOSITORY

_CONFIG: Final = "config.pbtxt"


def describe_models(folder: Path) -> list[dict[str, Any]]:
    """Return a summary of each `config.pbtxt` in a folder's repository, or beside the version folder it is."""
    return [_summary(file) for file in _configs(folder)]


def _configs(folder: Path) -> Iterator[Path]:
    yield from sorted((folder / REPOSITORY).glob(f"*/{_CONFIG}"))
    if folder.resolve().name.isdecimal() and (folder.resolve().parent / _CONFIG).is_file():
        yield folder.resolve().parent / _CONFIG


def _summary(file: Path) -> dict[str, Any]:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    try:
        config = text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        return {"name": file.parent.name, "problem": " ".join(str(error).split())}
    return {
        "name": config.name or file.parent.name,
        "backend": config.backend or config.platform,
        "max_batch_size": config.max_batch_size,
        "decoupled": config.model_transaction_policy.decoupled,
        "versions": sorted(e.name for e in file.parent.iterdir() if e.is_dir() and e.name.isdecimal()),
        "inputs": [tensor.name for tensor in config.input],
        "outputs": [tensor.name for tensor in config.output],
        "parameters": {name: config.parameters[name].string_value for name in sorted(config.parameters)},
    }
