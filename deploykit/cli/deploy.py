"""`deploykit deploy`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deploykit.artifact import REPOSITORY
from deploykit.cli import console, deploy_options, options
from deploykit.config import EngineConfig
from deploykit.deploy.config import DeployConfig
from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.deploy import Deployed
    from deploykit.deploy.check import Checked
    from deploykit.deploy.facts import ModelFacts
    from deploykit.deploy.steps import Step

HELP: Final = """Write Kubernetes manifests that serve ARTIFACT, or check manifests.

\b
deploykit deploy out -o manifests                        write them, with the arithmetic of every figure
deploykit deploy out -o manifests --gateway --scaling keda --monitoring
deploykit deploy out -o manifests --delivery s3 --source s3://BUCKET/PATH
deploykit deploy --check manifests                       tell what would break, after editing, too

A PATH of --check is a folder that kustomize builds, a folder of manifests, a file, or - for stdin. The
exit status is 12 where something would break."""

FOUND_ERRORS: Final = 12
"""Exit status where the linter found something that breaks, the doctor's for the same."""
_CHECKING: Final = ("check", "artifact", "strict", "remote")
"""Options of `--check`; `--json` and the paths belong to both."""
_LONGEST_PLACE: Final = 70
"""Characters of a place that are shown."""
_COLOURS: Final = {"error": "red", "warning": "yellow"}
_MARKS: Final = {"error": "✗", "warning": "!"}


@click.command(help=HELP)
@click.argument("paths", metavar="ARTIFACT | PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@deploy_options.writing
@deploy_options.engine
@deploy_options.placing
@deploy_options.checking
@options.as_json
def deploy(
    paths: tuple[Path, ...],
    check: bool,
    artifact: Path | None,
    strict: bool,
    remote: bool,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write manifests, or check some."""
    if check:
        _refuse([name for name in _given() if name not in (*_CHECKING, "paths", "as_json")], "to write, not to --check")
        _check(paths, artifact, strict=strict, remote=remote, as_json=as_json)
        return
    _refuse([name for name in _given() if name in _CHECKING], "for --check")
    if output is None or len(paths) != 1:
        got = f"got {len(paths)} and {'no -o' if output is None else output}"
        raise ConfigError(f"give one artifact and -o DIR, {got}; manifests are read by --check")
    engine = EngineConfig(**{name: settings.pop(name) for name in deploy_options.ENGINE})
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


def _check(paths: tuple[Path, ...], artifact: Path | None, *, strict: bool, remote: bool, as_json: bool) -> None:
    from deploykit.deploy.check import check

    with console.spinner("looking"):
        checked = check(paths, facts=_facts(artifact) if artifact else None, remote=remote)
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
        place = click.style(console.printable(_place(finding.source, len(checked.sources))), dim=True)
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
    from deploykit.deploy.names import kubernetes_name
    from deploykit.deploy.steps import first, then

    facts, folder = deployed.facts, str(deployed.path)
    click.echo(f"{'written':<9}{folder}")
    click.echo(
        f"{'model':<9}{facts.name} (version {facts.version}): {facts.precision}, {facts.rows} rows of up to "
        f"{facts.context} tokens"
    )
    name = kubernetes_name(facts.name)
    if name != facts.name:
        click.echo(f"{'note':<9}its objects are called {name}: another model of that name would take their place")
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
        place = _place(finding.source, len(deployed.checked.sources) if deployed.checked else 0)
        click.echo(f"\n{console.printable(f'{finding.line()} ({place})')}")


def _tell_steps(title: str, steps: "list[Step]") -> None:
    click.secho(f"\n{title}", bold=True)
    for step in steps:
        click.echo(f"  {click.style(f'# {step.what}', dim=True)}")
        for command in step.commands:
            click.echo(f"  {command}")
