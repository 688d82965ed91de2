"""`deploykit deploy`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deploykit.artifact import REPOSITORY
from deploykit.cli import console, options
from deploykit.config import EngineConfig, Mode
from deploykit.deploy.config import Delivery, DeployConfig, Scaling
from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.deploy import Deployed
    from deploykit.deploy.check import Checked
    from deploykit.deploy.facts import ModelFacts
    from deploykit.deploy.steps import Step

HELP: Final = """Write Kubernetes manifests that serve ARTIFACT, or check manifests.

\b
deploykit deploy out -o k8s         write them, with the arithmetic of every figure
deploykit deploy --check k8s        tell what would break, after editing, too

A PATH of --check is a folder that kustomize builds, a folder of manifests, a file, or - for stdin. The
exit status is 12 where something would break."""

FOUND_ERRORS: Final = 12
"""Exit status where the linter found something that breaks, the doctor's for the same."""
_CHECKING: Final = ("check", "artifact", "strict")
"""Options of `--check`; `--json` and the paths belong to both."""
_LONGEST_PLACE: Final = 70
"""Characters of a place that are shown."""
_COLOURS: Final = {"error": "red", "warning": "yellow"}
_MARKS: Final = {"error": "✗", "warning": "!"}

_writing = options.together(
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=None,
        metavar="DIR",
        help="Where to write the manifests.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a deployment that is there already."),
    click.option(
        "--image",
        default=None,
        metavar="REPO@DIGEST",
        help="The image that runs, or REPO:TAG; deploykit-NAME:VERSION by default, as one builds it.",
    ),
    click.option(
        "--namespace",
        default=None,
        metavar="NAME",
        help="A namespace that is there; one of the model's own is part of the output by default.",
    ),
    click.option(
        "--delivery",
        type=options.choices(Delivery),
        default=DeployConfig.delivery,
        show_default=True,
        help="How the model gets to a pod: in the image, on a claim, from an object store, or as an image of its own.",
    ),
    click.option(
        "--source",
        default=None,
        metavar="WHERE",
        help="Where from: the claim's name (pvc), s3://BUCKET/PATH (s3), an image (volume).",
    ),
    click.option("--gateway", is_flag=True, help="Add a container with OpenAI's API to each pod."),
    click.option(
        "--api-keys-secret",
        default=None,
        metavar="NAME",
        help="The Secret with the gateway's API keys, under `keys`; NAME-api-keys by default.",
    ),
    click.option(
        "--scaling",
        type=options.choices(Scaling),
        default=DeployConfig.scaling,
        show_default=True,
        help="What sets the number of pods by their requests in flight.",
    ),
    click.option(
        "--replicas",
        type=int,
        default=DeployConfig.replicas,
        show_default=True,
        help="Pods, or the fewest of them where something scales.",
    ),
    click.option(
        "--max-replicas",
        type=int,
        default=DeployConfig.max_replicas,
        show_default=True,
        help="The most pods where something scales.",
    ),
    click.option("--monitoring", is_flag=True, help="Add a PodMonitor, alerts and a dashboard."),
    click.option(
        "--monitoring-namespace",
        default=DeployConfig.monitoring_namespace,
        show_default=True,
        metavar="NAME",
        help="Where Prometheus runs; it alone may read metrics.",
    ),
    click.option(
        "--prometheus",
        default=DeployConfig.prometheus,
        show_default=True,
        metavar="URL",
        help="Where KEDA asks for metrics.",
    ),
    click.option(
        "--cpu", type=int, default=DeployConfig.cpu, show_default=True, help="Cores of a pod's engine, and its threads."
    ),
)

_engine = options.together(
    click.option(
        "--max-rows",
        type=int,
        default=EngineConfig.max_rows,
        show_default=True,
        help="Requests that advance together in a pod.",
    ),
    click.option(
        "--max-context",
        type=int,
        default=None,
        metavar="TOKENS",
        help="Longest prompt and answer together; the model's limit by default, at most 4096.",
    ),
    click.option(
        "--cache-memory",
        callback=options.amount,
        default=None,
        metavar="SIZE",
        help="Memory for keys and values, such as 2GiB; what all rows at their full context take by default.",
    ),
    click.option(
        "--max-queue",
        type=int,
        default=EngineConfig.max_queue,
        show_default=True,
        help="Requests that may wait in a pod.",
    ),
    click.option(
        "--prefill-chunk",
        type=int,
        default=EngineConfig.prefill_chunk,
        show_default=True,
        metavar="TOKENS",
        help="Prompt tokens run between two steps of others.",
    ),
    click.option(
        "--mode",
        type=options.choices(Mode),
        default=EngineConfig.mode,
        show_default=True,
        help="What runs: the precision it was exported to serve, or dynamic-int8.",
    ),
    click.option("--log-requests", is_flag=True, help="A line in the pod's log for each request that has ended."),
)
"""Fields of `EngineConfig`, with its defaults: a pod is sized by them, so they count more than `config.pbtxt`."""
_ENGINE: Final = ("max_rows", "max_context", "cache_memory", "max_queue", "prefill_chunk", "mode", "log_requests")

_ending = options.together(
    click.option(
        "--pre-stop",
        type=int,
        default=DeployConfig.pre_stop,
        show_default=True,
        metavar="SECONDS",
        help="How long a pod serves on after it was asked to end, until the cluster stops sending.",
    ),
    click.option(
        "--exit-timeout",
        type=int,
        default=DeployConfig.exit_timeout,
        show_default=True,
        metavar="SECONDS",
        help="What open streams get after that.",
    ),
    click.option(
        "--gpu-product",
        default=None,
        metavar="NAME",
        help="The node label nvidia.com/gpu.product in the overlays with a GPU; any by default.",
    ),
    click.option(
        "--mig-profile",
        default=DeployConfig.mig_profile,
        show_default=True,
        help="The slice of a GPU in the overlay mig.",
    ),
    click.option("--runtime-class", default=None, metavar="NAME", help="The RuntimeClass in the overlays with a GPU."),
)

_checking = options.together(
    click.option("--check", is_flag=True, help="Write nothing; tell what in the manifests at PATH... would break."),
    click.option(
        "--artifact",
        type=click.Path(path_type=Path),
        default=None,
        help="The model that they serve; known from the deploykit.json beside them by default.",
    ),
    click.option("--strict", is_flag=True, help="Let warnings fail a check, too."),
)


@click.command(help=HELP)
@click.argument("paths", metavar="ARTIFACT | PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@_writing
@_engine
@_ending
@_checking
@options.as_json
def deploy(
    paths: tuple[Path, ...],
    check: bool,
    artifact: Path | None,
    strict: bool,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write manifests, or check some."""
    if check:
        _refuse([name for name in _given() if name not in (*_CHECKING, "paths", "as_json")], "to write, not to --check")
        _check(paths, artifact, strict=strict, as_json=as_json)
        return
    _refuse([name for name in _given() if name in _CHECKING], "for --check")
    if output is None or len(paths) != 1:
        raise ConfigError(f"give one artifact and -o DIR, got {len(paths)} and {output}; manifests are read by --check")
    engine = EngineConfig(**{name: settings.pop(name) for name in _ENGINE})
    config = DeployConfig(engine=engine, **settings)
    from deploykit.deploy import deploy as run

    with console.progress() as progress:
        deployed = run(paths[0], output, config, overwrite=overwrite, progress=progress)
    if as_json:
        console.print_json(deployed.to_json())
    else:
        _tell(deployed, paths[0])


def _given() -> list[str]:
    """Return the names of the options on the command line."""
    context = click.get_current_context()
    given = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)
    return [name for name in context.params if context.get_parameter_source(name) in given]


def _refuse(names: list[str], belongs: str) -> None:
    """Refuse options that would change nothing, since whoever gives them expects otherwise.

    Raises:
        ConfigError: there are some.
    """
    if names:
        spelled = {option.name: option.opts[-1] for option in click.get_current_context().command.params}
        raise ConfigError(f"{', '.join(spelled[name] for name in names)}: only {belongs}; leave it out")


def _check(paths: tuple[Path, ...], artifact: Path | None, *, strict: bool, as_json: bool) -> None:
    from deploykit.deploy.check import check

    with console.spinner("looking"):
        checked = check(paths, facts=_facts(artifact) if artifact else None)
    if as_json:
        console.print_json(checked.to_json())
    else:
        _tell_checked(checked)
    if checked.failed(strict=strict):
        raise click.exceptions.Exit(FOUND_ERRORS)


def _facts(artifact: Path) -> "ModelFacts":
    from deploykit.deploy.reading import read_facts

    return read_facts(artifact, DeployConfig())


def _tell_checked(checked: "Checked") -> None:
    for finding in checked.findings:
        mark = click.style(f"{_MARKS[finding.level]} {finding.level:<8}", fg=_COLOURS[finding.level])
        place = click.style(_place(finding.source, len(checked.sources)), dim=True)
        click.echo(f"{mark}{console.printable(finding.object)}  {place}")
        value = f" = {finding.value}" if finding.value else ""
        console.print_folded(" " * 10, console.printable(f"{finding.field}{value}"), indent=10)
        console.print_folded(" " * 10, console.printable(finding.why), indent=10)
        remedy = f"→ {console.printable(finding.remedy)} {click.style(f'[{finding.rule}]', dim=True)}"
        console.print_folded(" " * 10, remedy, indent=12)
        click.echo()
    model = f", of the model {checked.facts.name}" if checked.facts else ", of a model that isn't known (--artifact)"
    click.secho(_count(checked) + model, fg="red" if checked.errors else "yellow" if checked.warnings else "green")


def _place(source: str, builds: int) -> str:
    """Return where a finding is, in a few words where it is in many overlays; --json names them."""
    places = source.count(", ") + 1
    return f"in {places} of {builds} builds" if places > 1 and len(source) > _LONGEST_PLACE else source


def _count(checked: "Checked") -> str:
    """Return what was looked at and found, in a few words."""
    found = [
        f"{number} {name if number == 1 else f'{name}s'}"
        for number, name in ((checked.errors, "error"), (checked.warnings, "warning"))
        if number
    ]
    objects = f"{checked.objects} object{'s' * (checked.objects != 1)}"
    places = f" in {len(checked.sources)} builds" if len(checked.sources) > 1 else ""
    return f"{', '.join(found) or 'nothing wrong'}: {objects}{places}"


def _tell(deployed: "Deployed", artifact: Path) -> None:
    """Print what was written and why, what has to be there first, and how to go on."""
    from deploykit.deploy.steps import first, then

    facts, folder = deployed.facts, str(deployed.path)
    click.echo(f"{'written':<9}{folder}")
    click.echo(
        f"{'model':<9}{facts.name} (version {facts.version}): {facts.precision}, {facts.rows} rows of up to "
        f"{facts.context} tokens"
    )
    checked = _count(deployed.checked) if deployed.checked else "not at all: neither kubectl nor kustomize is on PATH"
    click.echo(f"{'checked':<9}{checked}")
    click.echo(f"{'note':<9}the overlays gpu and mig compute on the CPU, too, in this release")
    click.secho("\nFigures", bold=True)
    what, value = (max(len(getattr(line, name)) for line in deployed.lines) + 2 for name in ("what", "value"))
    for line in deployed.lines:
        start = f"  {line.what:<{what}}{click.style(f'{line.value:<{value}}', fg='cyan')}"
        console.print_folded(start, line.how, indent=2 + what + value)
    # Where the repository lies, which images are built from.
    place = shlex.quote(str(artifact if (artifact / REPOSITORY).is_dir() else artifact.parent))
    if before := first(facts, deployed.config, shlex.quote(folder), place):
        _tell_steps("What has to be there first", before)
    _tell_steps("Then", then(facts, deployed.sizing, deployed.config, shlex.quote(folder)))
    for finding in deployed.checked.findings if deployed.checked else ():
        click.echo(f"\n{console.printable(finding.line())}")


def _tell_steps(title: str, steps: "list[Step]") -> None:
    click.secho(f"\n{title}", bold=True)
    for step in steps:
        click.echo(f"  {click.style(f'# {step.what}', dim=True)}")
        for command in step.commands:
            click.echo(f"  {command}")
