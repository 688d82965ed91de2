"""A packaged model in, a folder of manifests out."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from deploykit.deploy import scaling
from deploykit.deploy.check import Checked, check
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.kustomizing import find_renderer
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import FILE, ModelFacts
from deploykit.deploy.layout import files
from deploykit.deploy.reading import read_facts
from deploykit.deploy.readme import README, readme
from deploykit.deploy.sizing import Line, Sizing, size_pod
from deploykit.draft import check_target, draft
from deploykit.errors import OutputError
from deploykit.progress import Progress, silent

STAGE: Final = "deploy"


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """Manifests that were written."""

    path: Path
    facts: ModelFacts
    config: DeployConfig
    sizing: Sizing
    lines: tuple[Line, ...]
    """The arithmetic of every figure, the scaling's as well."""
    checked: Checked | None
    """What the linter found; None where neither kubectl nor kustomize is there to build the overlays."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        return {
            "output": str(self.path),
            "model": self.facts.to_json(),
            "options": asdict(self.config),
            "figures": [asdict(line) for line in self.lines],
            "checked": self.checked.to_json() if self.checked else None,
        }


def deploy(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: DeployConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Deployed:
    """Write manifests that run a packaged model in a cluster; the same model and options give the same bytes.

    Args:
        path: a packaged artifact, or a model repository with one model.
        output: the folder that will hold them.
        config: what is wanted of the deployment.
        overwrite: whether an earlier deployment at `output` may be replaced.
        progress: told how far it is.

    Raises:
        ArtifactError: there is no model, more than one, or it is damaged.
        ConfigError: the model can't be run as wanted.
        OutputError: `output` exists or can't be written, or the linter finds what was written to be broken.
    """
    config, target = config or DeployConfig(), Path(output)
    # Before the model's files are hashed.
    check_target(target, overwrite=overwrite, marker=FILE)
    progress(STAGE, 0, 3)
    facts = read_facts(Path(path), config)
    progress(STAGE, 1, 3)
    sizing = size_pod(facts, config)
    lines = (*sizing.lines, *scaling.arithmetic(facts, config))
    with draft(target, overwrite=overwrite, marker=FILE) as sheet:
        for name, text in _texts(facts, sizing, config, lines):
            sheet.file(name).write_text(text, encoding="utf-8")
        progress(STAGE, 2, 3)
        checked = _checked(sheet.path, target, facts)
        sheet.publish()
    progress(STAGE, 3, 3)
    return Deployed(path=target, facts=facts, config=config, sizing=sizing, lines=lines, checked=checked)


def _texts(
    facts: ModelFacts, sizing: Sizing, config: DeployConfig, lines: tuple[Line, ...]
) -> Iterator[tuple[str, str]]:
    """Yield each file's name and text."""
    yield from files(facts, sizing, config).items()
    yield README, readme(facts, sizing, config, lines)
    kept = {
        "deploykit": version("deploykit"),
        "model": facts.to_json(),
        "options": asdict(config),
        "figures": [asdict(line) for line in lines],
    }
    yield FILE, json.dumps(kept, indent=2, ensure_ascii=False) + "\n"


def _checked(written: Path, target: Path, facts: ModelFacts) -> Checked | None:
    """Return what the linter finds in the folder that is to be `target`.

    Raises:
        OutputError: something that breaks.
    """
    if find_renderer() is None:
        return None
    checked = check([written], facts=facts)
    found = tuple(_at(finding, written, target) for finding in checked.findings)
    errors = [finding for finding in found if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise OutputError(f"{target}: not written, since it would not work: {errors[0].line()}{more}; report this")
    sources = tuple(source.replace(str(written), str(target)) for source in checked.sources)
    return replace(checked, findings=found, sources=sources)


def _at(finding: Finding, written: Path, target: Path) -> Finding:
    """Return a finding that names the folder where the manifests will lie."""
    places = {name: getattr(finding, name).replace(str(written), str(target)) for name in ("object", "source")}
    return replace(finding, **places)
