"""`package`: from a validated artifact to one that Triton serves."""

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version
from typing import Final

from deploykit.artifact import MANIFEST, REPOSITORY, Artifact, FileEntry, Manifest, StageRecord
from deploykit.config import Mode, PackageConfig
from deploykit.draft import Draft, draft
from deploykit.package.model_config import model_config_text
from deploykit.package.serveable import check_serveable
from deploykit.progress import Progress, silent

__all__ = ["package"]

STAGE: Final = "package"
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
    artifact of its own: real files, only the precisions that are run. The same source gives the same bytes.

    Args:
        source: an artifact, or the path of one, whose files are then verified.
        out: where the result will lie.
        config: the Triton model's name and version, and whether it can run in mode `throughput`.
        overwrite: whether an artifact at `out` may be replaced.
        link: whether files may be hard-linked to the source's: only where that is about to be removed.
        progress: told how far the files are.

    Raises:
        ArtifactError: the source is damaged, or lacks something that serving needs.
        OutputError: `out` exists or can't be written.
    """
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    config = config or PackageConfig()
    check_serveable(artifact)
    manifest = _with_record(artifact.manifest, config)
    with draft(out, overwrite=overwrite) as result:
        progress(STAGE, 0, 2)
        result.carry(artifact, list(_plain_files(artifact.manifest)), link=link)
        progress(STAGE, 1, 2)
        _write_repository(result, artifact, manifest, config)
        packaged = result.commit(manifest)
        progress(STAGE, 2, 2)
    return packaged


def _with_record(manifest: Manifest, config: PackageConfig) -> Manifest:
    """Return the manifest with this stage as its last; packaging again replaces the record, it adds none."""
    record = StageRecord(
        stage=STAGE,
        options=asdict(config),
        versions={name: version(name) for name in ("deploykit", "tritonclient")},
    )
    earlier = tuple(entry for entry in manifest.history if entry.stage != STAGE)
    return replace(manifest, history=(*earlier, record))


def _plain_files(manifest: Manifest) -> Iterator[str]:
    """Yield the files of an artifact that packaging didn't make."""
    for name in manifest.files:
        if name != MODEL_FILE and not name.startswith(f"{REPOSITORY}/"):
            yield name


def served_files(artifact: Artifact, config: PackageConfig) -> list[str]:
    """Return the files that serving needs: the graphs that are run, and all that belongs to no graph."""
    modes: list[Mode] = ["deterministic", "throughput"] if config.throughput else ["deterministic"]
    run = {name for mode in modes for name in artifact.files_of(artifact.precision_for(mode))}
    others = {name for name in artifact.manifest.files if name.startswith("onnx/")} - run
    return [name for name in _plain_files(artifact.manifest) if name not in others | _OTHER_RUNTIMES]


def _write_repository(result: Draft, artifact: Artifact, manifest: Manifest, config: PackageConfig) -> None:
    model = f"{REPOSITORY}/{config.name}"
    folder = f"{model}/{config.version}"
    # Never linked: the repository is copied to other machines, and readers of external data refuse hard links.
    names = served_files(artifact, config)
    result.carry(artifact, names, into=folder)
    result.file(f"{folder}/{MODEL_FILE}").write_text(MODEL_CODE, encoding="utf-8")
    code = MODEL_CODE.encode()
    entries = {name: manifest.files[name] for name in names}
    entries[MODEL_FILE] = FileEntry(sha256=sha256(code).hexdigest(), size=len(code))
    result.write_json(f"{folder}/{MANIFEST}", replace(manifest, files=entries).to_json())
    result.file(f"{model}/config.pbtxt").write_text(model_config_text(config), encoding="utf-8")
