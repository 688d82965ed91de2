"""`inspect`: what an artifact, or any ONNX file or folder, is; nothing is loaded or run."""

from pathlib import Path
from typing import Any, Final

from deploykit.artifact import MANIFEST, Artifact, Manifest
from deploykit.errors import ArtifactError
from deploykit.inspect.graph import describe_graph
from deploykit.inspect.quality import describe_quality
from deploykit.inspect.texts import describe_card, describe_tokenizer, read_object
from deploykit.inspect.triton import describe_models
from deploykit.spec import TensorSpec, graph_files

__all__ = ["inspect"]

_WHERE: Final = ("*.onnx", "*/*.onnx", "*/*/*.onnx")
"""Where graphs lie in a folder: in it, in `onnx/`, or in a version of a model of a repository."""
_HEADS: Final = ("num_attention_heads", "n_head", "decoder_attention_heads", "num_heads", "nhead")
_MOST_FILES: Final = 200
"""ONNX files of a folder that are read."""


def inspect(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """Return what lies at `path` as plain JSON values; its `kind` says which: artifact, graph or folder.

    Args:
        path: an artifact, an ONNX file, or a folder of ONNX files.
        verify: whether to compare an artifact's files with their hashes.

    Raises:
        ArtifactError: there is nothing of these, or it can't be read.
    """
    if (path / MANIFEST).is_file():
        return _artifact(path, verify=verify)
    if path.is_file():
        return {"kind": "graph", "path": str(path), "graphs": [describe_graph(path)], **_beside(path.parent)}
    if not path.is_dir():
        raise ArtifactError(f"{path}: nothing there; give an artifact, an ONNX file, or a folder of ONNX files")
    files = sorted(file for pattern in _WHERE for file in path.glob(pattern))[:_MOST_FILES]
    if not files:
        raise ArtifactError(
            f"{path}: no {MANIFEST} and no ONNX file in it; give an artifact, or an ONNX file or folder"
        )
    graphs = [{**describe_graph(file), "file": file.relative_to(path).as_posix()} for file in files]
    return {"kind": "folder", "path": str(path), "graphs": graphs, **_beside(path)}


def _beside(folder: Path) -> dict[str, Any]:
    return {"card": describe_card(folder), "tokenizer": describe_tokenizer(folder)}


def _artifact(path: Path, *, verify: bool) -> dict[str, Any]:
    artifact = Artifact.open(path, verify=False)
    manifest, spec = artifact.manifest, artifact.contract()
    layers = spec.layers
    return {
        "kind": "artifact",
        "path": str(path),
        "task": manifest.task,
        "architecture": manifest.architecture,
        "model_type": manifest.model_type,
        "layers": len(layers),
        "heads": _heads(read_object(path / "config.json")),
        "key_value_heads": sorted({layer.heads for layer in layers}),
        "head_size": sorted({layer.key_dim for layer in layers}),
        "vocabulary": spec.vocab_size,
        "context": spec.max_context,
        "source": spec.encoder.max_source if spec.encoder else None,
        "cache": spec.cache,
        "cache_bytes_per_token": spec.cache_bytes_per_token(),
        "served": manifest.served,
        "precisions": [_precision(artifact, precision) for precision in artifact.precisions()],
        "inputs": [_tensor(tensor) for tensor in spec.inputs()],
        "outputs": [_tensor(tensor) for tensor in spec.outputs()],
        "history": [
            {"stage": r.stage, "options": dict(r.options), "versions": dict(r.versions), "result": dict(r.result)}
            for r in manifest.history
        ],
        "quality": _quality(manifest),
        "files": _files(artifact, verify=verify),
        "graphs": [
            describe_graph(file)
            for precision in artifact.precisions()
            for file in artifact.graphs(precision)
            if file.is_file()
        ],
        "triton": describe_models(path),
        **_beside(path),
    }


def _heads(config: dict[str, Any]) -> int | None:
    """Return how many attention heads a configuration names, under one of their usual names."""
    found = (config.get(name) for name in _HEADS)
    return next((heads for heads in found if isinstance(heads, int)), None)


def _quality(manifest: Manifest) -> list[dict[str, Any]]:
    try:
        return describe_quality(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{MANIFEST}: its figures can't be read: {error!r}; validate the artifact again") from None


def _precision(artifact: Artifact, precision: Any) -> dict[str, Any]:
    name, *encoder = graph_files(precision, artifact.manifest.decoder)
    return {
        "precision": precision,
        "file": name,
        **({"encoder": encoder[0]} if encoder else {}),
        "bytes": artifact.size_of(precision),
        "served": precision == artifact.manifest.served,
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "type": tensor.dtype, "shape": list(tensor.shape)}


def _files(artifact: Artifact, *, verify: bool) -> dict[str, Any]:
    """Return the artifact's files with sizes and hashes, and whether they are what the manifest says."""
    problem, state = None, "not verified"
    if verify:
        try:
            artifact.verify()
            state = "verified"
        except ArtifactError as error:
            problem, state = str(error), "damaged"
    entries = [{"name": n, "bytes": e.size, "sha256": e.sha256} for n, e in sorted(artifact.manifest.files.items())]
    return {"state": state, "problem": problem, "entries": entries}
