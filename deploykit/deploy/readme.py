"""The page that lies beside the manifests: what they are, how to apply them, and why each figure is what it is."""

from collections.abc import Iterator, Sequence
from typing import Final

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import FILE, ModelFacts
from deploykit.deploy.overlays import CPU_ONLY
from deploykit.deploy.sizing import Line, Sizing
from deploykit.deploy.steps import RELEASES, VOLUME_RELEASES, Step, first, then

README: Final = "README.md"
OVERLAYS: Final = (
    ("cpu", "ordinary nodes; `kubectl apply -k .` takes this one"),
    ("gpu", "a GPU for each pod"),
    ("mig", "a slice of a GPU for each pod"),
    ("openshift", "OpenShift: no fixed IDs, its DNS and its Prometheus"),
    ("eks", "Amazon EKS"),
    ("aks", "Azure AKS"),
    ("gke", "Google GKE"),
)
"""Each overlay, and what it is for."""


def readme(facts: ModelFacts, sizing: Sizing, config: DeployConfig, lines: Sequence[Line]) -> str:
    """Return the page as Markdown, the same for the same model and options."""
    return "\n".join(_page(facts, sizing, config, lines)) + "\n"


def _page(facts: ModelFacts, sizing: Sizing, config: DeployConfig, lines: Sequence[Line]) -> Iterator[str]:
    yield f"# {facts.name} on Kubernetes\n"
    releases = VOLUME_RELEASES if config.delivery == "volume" else RELEASES
    yield (
        f"Written by `deploykit deploy` for version {facts.version} of the model, {facts.precision}, "
        f"{facts.rows} rows of {facts.context:,} tokens. {releases}.\n"
    )
    if before := first(facts, config, "."):
        yield "## What has to be there first\n"
        yield from _steps(before)
    yield "## Apply\n"
    yield "With this folder as the current one:\n"
    yield from _steps(then(facts, sizing, config, "."))
    yield "| overlay | for |\n|---|---|"
    yield from (f"| `kubectl apply -k overlays/{name}` | {what} |" for name, what in OVERLAYS)
    yield f"\n**GPUs.** {' '.join(CPU_ONLY.split())}\n"
    yield "## Where the figures come from\n"
    yield "| | | |\n|---|---|---|"
    yield from (f"| {line.what} | {line.value} | {line.how} |" for line in lines)
    yield "\n## Changes by hand\n"
    yield "Every file may be edited; this says what would break before a cluster does:\n"
    yield "```console\n$ deploykit deploy --check .\n```\n"
    yield (
        f"It knows the model from `{FILE}`. `deploykit deploy --overwrite` replaces the whole folder; an overlay of "
        "your own in another folder, with this one under `resources`, outlives that."
    )


def _steps(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        yield f"{step.what[0].upper()}{step.what[1:]}:\n"
        yield "\n".join(["```console", *(f"$ {command}" for command in step.commands), "```\n"])
