"""`package`: from a validated artifact to one that Triton serves."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Final

import numpy as np

from deploykit.artifact import MANIFEST, REPOSITORY, Artifact, Manifest, StageRecord, entry_of
from deploykit.config import Mode, PackageConfig
from deploykit.draft import Draft, draft
from deploykit.errors import ArtifactError
from deploykit.package.model_config import model_config_text
from deploykit.package.replay import replay
from deploykit.package.right_padded import pad_right_only
from deploykit.package.serveable import check_serveable
from deploykit.progress import Progress, silent
from deploykit.spec import VARIANT_FILES, Padding, Precision

__all__ = ["package"]

STAGE: Final = "package"
LOAD_SECONDS: Final = "load_seconds"
"""What the stage's record calls the seconds that a graph took to load, by precision."""
MODEL_FILE: Final = "model.py"
MODEL_CODE: Final = '''"""The model as Triton's Python backend loads it; the work is done in deploykit."""

from deploykit.serve.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

_OTHER_RUNTIMES: Final = frozenset({"genai_config.json"})
"""Files that name graphs which the repository doesn't hold."""


def package(
    source: Artifact | str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PackageConfig | None = None,
    *,
    overwrite: bool = False,
    link: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Return an artifact with the files of `source` and a Triton model repository of the precision it serves.

    The repository holds `<name>/config.pbtxt` and, in `<name>/<version>/`, a few lines of Python beside a whole
    artifact of its own: real files, only the precisions that are run. Its graphs take rows padded on the right, as the
    engine pads them; see `right_padded`. The same source gives the same bytes, but for the seconds that its graphs took
    to load, which the manifest tells.

    Args:
        source: an artifact, or the path of one, whose files are then verified.
        out: where the result will lie.
        config: the Triton model's name and version, and whether it can run in mode `throughput`.
        overwrite: whether an artifact at `out` may be replaced.
        link: whether files may be hard-linked to the source's: only where that is about to be removed.
        progress: told how far the files are.

    Raises:
        ArtifactError: the source is damaged, lacks something that serving needs, or ONNX Runtime can't run it.
        OutputError: `out` exists or can't be written.
    """
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    config = config or PackageConfig()
    check_serveable(artifact)
    with draft(out, overwrite=overwrite) as result:
        progress(STAGE, 0, 2)
        result.carry(artifact, list(_plain_files(artifact.manifest)), link=link)
        progress(STAGE, 1, 2)
        manifest = _write_repository(result, artifact, config)
        packaged = result.commit(manifest)
        progress(STAGE, 2, 2)
    return packaged


def _with_record(
    manifest: Manifest, config: PackageConfig, padding: Padding, load_seconds: Mapping[Precision, float]
) -> Manifest:
    """Return the manifest with this stage as its last; packaging again replaces the record, it adds none."""
    earlier = tuple(entry for entry in manifest.history if entry.stage != STAGE)
    # A graph that is left as it is was measured when it was written, if at all.
    last = manifest.history[-1] if manifest.history else None
    known = last.result.get(LOAD_SECONDS, {}) if last and last.stage == STAGE else {}
    seconds = {**known, **load_seconds}
    record = StageRecord(
        stage=STAGE,
        options=asdict(config),
        versions={name: version(name) for name in ("deploykit", "tritonclient")},
        result={"padding": padding, **({LOAD_SECONDS: seconds} if seconds else {})},
    )
    return replace(manifest, history=(*earlier, record))


def _plain_files(manifest: Manifest) -> Iterator[str]:
    """Yield the files of an artifact that packaging didn't make."""
    for name in manifest.files:
        if name != MODEL_FILE and not name.startswith(f"{REPOSITORY}/"):
            yield name


def served_precisions(artifact: Artifact, config: PackageConfig) -> list[Precision]:
    """Return the precisions that serving runs, each once."""
    modes: list[Mode] = ["deterministic", "throughput"] if config.throughput else ["deterministic"]
    return list(dict.fromkeys(artifact.precision_for(mode) for mode in modes))


def served_files(artifact: Artifact, config: PackageConfig) -> list[str]:
    """Return the files that serving needs: the graphs that are run, and all that belongs to no graph."""
    run = {name for precision in served_precisions(artifact, config) for name in artifact.files_of(precision)}
    others = {name for name in artifact.manifest.files if name.startswith("onnx/")} - run
    return [name for name in _plain_files(artifact.manifest) if name not in others | _OTHER_RUNTIMES]


def _write_repository(result: Draft, artifact: Artifact, config: PackageConfig) -> Manifest:
    """Write the repository, and return the manifest of the artifact around it."""
    model = f"{REPOSITORY}/{config.name}"
    folder = f"{model}/{config.version}"
    # Never linked: the repository is copied to other machines, and readers of external data refuse hard links.
    names = served_files(artifact, config)
    result.carry(artifact, names, into=folder)
    result.file(f"{folder}/{MODEL_FILE}").write_text(MODEL_CODE, encoding="utf-8")
    entries = {name: artifact.manifest.files[name] for name in names}
    entries[MODEL_FILE] = entry_of(result.path / folder / MODEL_FILE)
    inner, seconds = _pad_right_only(Artifact(result.path / folder, replace(artifact.manifest, files=entries)), config)
    for name in names:
        if inner.manifest.files[name] != entries[name]:
            result.rewritten(f"{folder}/{name}")
    manifest = _with_record(artifact.manifest, config, inner.contract().padding, seconds)
    result.write_json(f"{folder}/{MANIFEST}", replace(inner.manifest, history=manifest.history).to_json())
    result.file(f"{model}/config.pbtxt").write_text(model_config_text(config), encoding="utf-8")
    return manifest


def _pad_right_only(inner: Artifact, config: PackageConfig) -> tuple[Artifact, dict[Precision, float]]:
    """Return the inner artifact with its graphs rewritten for rows padded on the right, as far as they can be.

    Beside it, the seconds that each of those took to load. An encoder-decoder's stay as they are, and are only tried.
    """
    if inner.manifest.decoder.encoder:
        return inner, {precision: round(_tried(inner, precision), 3) for precision in served_precisions(inner, config)}
    found = {precision: pad_right_only(inner, precision) for precision in served_precisions(inner, config)}
    seconds = {precision: round(taken, 3) for precision, taken in found.items() if taken is not None}
    if not seconds:
        return inner, {}
    graphs = {VARIANT_FILES[precision]: entry_of(inner.graph(precision)) for precision in seconds}
    manifest = inner.manifest
    decoder = replace(manifest.decoder, padding="right")
    return Artifact(inner.path, replace(manifest, decoder=decoder, files={**manifest.files, **graphs})), seconds


def _tried(inner: Artifact, precision: Precision) -> float:
    """Return the seconds a precision took to load, after it has run as the engine runs it.

    Raises:
        ArtifactError: it can't, or gives NaN or Inf.
    """
    found = replay(inner, precision)
    if not all(np.isfinite(logits).all() for logits in found.logits):
        raise ArtifactError(f"{inner.path}: the {precision} model gives NaN or Inf; export with another --quantize")
    return found.load_seconds
