"""A Triton model's `config.pbtxt` against what it configures: a graph, or deploykit's text model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from deploykit.artifact import MANIFEST, REPOSITORY
from deploykit.config import EngineConfig
from deploykit.doctor.finding import Finding, ok
from deploykit.doctor.releases import BACKENDS
from deploykit.doctor.tensors import Tensor, compare, graph_tensors
from deploykit.errors import ArtifactError
from deploykit.outline import read_outline

CONFIG: Final = "config.pbtxt"
_ENGINE: Final = frozenset(field.name for field in fields(EngineConfig))
_PLATFORMS: Final = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "pytorch_libtorch": "pytorch"}


@dataclass(frozen=True, kw_only=True)
class TextContract:
    """The inputs and outputs of the text model that deploykit packages."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


def find_models(path: Path) -> list[Path]:
    """Return the folders of Triton models at a path: itself, those in it, or those in its model repository."""
    if (path / CONFIG).is_file():
        return [path]
    root = path / REPOSITORY if (path / REPOSITORY).is_dir() else path
    return sorted(entry for entry in root.iterdir() if (entry / CONFIG).is_file()) if root.is_dir() else []


def read_config(model: Path) -> Any:
    """Return the configuration of a Triton model as a protobuf message.

    Raises:
        ArtifactError: it is no protobuf text, or has a field that Triton doesn't know.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    file = model / CONFIG
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise ArtifactError(f"{file}: can't be read: {' '.join(str(error).split())}; correct it there") from None


def check_model(model: Path, contract: TextContract) -> Iterator[Finding]:
    """Yield what is wrong with a Triton model's configuration, or one line that nothing is."""
    try:
        config = read_config(model)
        problems = list(_problems(model, config, contract))
    except ArtifactError as error:
        yield Finding(level="error", what=CONFIG, found=str(error), remedy="")
        return
    yield from problems
    if not problems:
        ends = f"{len(config.input)} inputs, {len(config.output)} outputs"
        yield ok(CONFIG, f"{model.name}: backend {_backend(config)}, {ends}: fits what it configures")


def _problems(model: Path, config: Any, contract: TextContract) -> Iterator[Finding]:
    backend, where = _backend(config), f"{model.name}/{CONFIG}"
    if config.name and config.name != model.name:
        yield _wrong(f"{where}: name is {config.name!r}, the folder {model.name!r}", "Triton wants both to be the same")
    if backend not in BACKENDS:
        yield Finding(
            level="warning",
            what=CONFIG,
            found=f"{where}: backend is {backend or 'not given'!r}, which is not in NVIDIA's image",
            remedy=f"use one of {', '.join(sorted(BACKENDS))}, or add the backend to the image",
        )
    versions = sorted((entry for entry in model.iterdir() if entry.is_dir() and entry.name.isdecimal()), key=str)
    if not versions and backend != "ensemble":
        yield _wrong(f"{where}: no version folder beside it", "put the model into a folder named 1")
    for number in config.version_policy.specific.versions:
        if not (model / str(number)).is_dir():
            yield _wrong(f"{where}: version_policy asks for version {number}, which is not there", "correct the policy")
    for version in versions:
        if backend == "onnxruntime":
            yield from _onnx(version, config, where)
        elif backend == "python":
            yield from _python(version, config, where, contract)


def _backend(config: Any) -> str:
    return str(config.backend or _PLATFORMS.get(config.platform, config.platform))


def _onnx(version: Path, config: Any, where: str) -> Iterator[Finding]:
    file = version / (config.default_model_filename or "model.onnx")
    if not file.is_file():
        yield _wrong(
            f"{where}: {version.name}/{file.name} is not there", "copy the graph, or set default_model_filename"
        )
        return
    outline = read_outline(file)
    batched = config.max_batch_size > 0
    # Triton fills in what a configuration leaves out altogether.
    if config.input:
        needed, also = graph_tensors(outline.inputs), graph_tensors(outline.defaults)
        yield from compare("input", config.input, [*needed, *also], where, batched=batched, needed=len(needed))
    if config.output:
        yield from compare("output", config.output, graph_tensors(outline.outputs), where, batched=batched, needed=0)


def _python(version: Path, config: Any, where: str, contract: TextContract) -> Iterator[Finding]:
    if not (version / (config.default_model_filename or "model.py")).is_file():
        yield _wrong(f"{where}: {version.name}/model.py is not there", "package the artifact again")
    if not (version / MANIFEST).is_file():
        # Somebody else's Python model: only its author knows what it takes.
        return
    if config.max_batch_size:
        yield _wrong(f"{where}: max_batch_size is {config.max_batch_size}", "set it to 0: the engine batches by itself")
    if not config.model_transaction_policy.decoupled:
        yield _wrong(f"{where}: decoupled is not set", "add model_transaction_policy { decoupled: true }: it streams")
    yield from compare("input", config.input, contract.inputs, where, batched=False, needed=len(contract.inputs))
    yield from compare("output", config.output, contract.outputs, where, batched=False, needed=len(contract.outputs))
    yield from _parameters(config.parameters, where)
    yield from _instances(config.instance_group, where)


def _parameters(parameters: Mapping[str, Any], where: str) -> Iterator[Finding]:
    for name in sorted(parameters):
        text = parameters[name].string_value
        if name not in _ENGINE:
            remedy = f"use one of {', '.join(sorted(_ENGINE))}"
            yield Finding(level="warning", what=CONFIG, found=f"{where}: unknown parameter {name}", remedy=remedy)
        elif not text.isdecimal() or int(text) < 1:
            yield _wrong(f"{where}: parameter {name} is {text!r}", "give a whole number of at least 1")


def _instances(groups: Sequence[Any], where: str) -> Iterator[Finding]:
    for group in groups:
        if group.count > 1:
            yield Finding(
                level="warning",
                what=CONFIG,
                found=f"{where}: instance_group has count {group.count}: the weights are loaded that many times",
                remedy="set count to 1: one engine batches all requests",
            )


def _wrong(found: str, remedy: str) -> Finding:
    return Finding(level="error", what=CONFIG, found=found, remedy=remedy)


def rows_of(model: Path) -> int | None:
    """Return the `max_rows` a model's configuration sets, or None."""
    try:
        text = read_config(model).parameters["max_rows"].string_value
    except ArtifactError:
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else None
