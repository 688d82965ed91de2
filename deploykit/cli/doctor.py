"""`deploykit doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli import console, options
from deploykit.config import EngineConfig

if TYPE_CHECKING:
    from deploykit.doctor import Report, TextContract

FOUND_ERRORS = 12
"""Exit status where the doctor found an error."""
_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}
_MARKS = {"ok": "✓", "note": "·", "warning": "!", "error": "✗"}


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@click.option(
    "--release",
    default=None,
    metavar="YY.MM",
    help="Release of NVIDIA's Triton image to run on, such as 26.07; this machine's ONNX Runtime by default.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default=None,
    help="Where the model is to run; cuda by default for fp16 and int4-fp16, else cpu.",
)
@options.precision
@click.option(
    "--rows", type=int, default=EngineConfig.max_rows, show_default=True, help="Requests at once, for the memory."
)
@click.option(
    "--context", type=int, default=None, metavar="TOKENS", help="Tokens a row can hold, for the memory; 4096 at most."
)
@options.as_json
def doctor(
    artifact: Path | None,
    release: str | None,
    device: Any,
    precision: Any,
    rows: int,
    context: int | None,
    as_json: bool,
) -> None:
    """Look at this machine, and whether ARTIFACT (or a model repository) will run where it is to run.

    The exit status is 12 if an error was found.
    """
    config = EngineConfig(max_rows=rows, max_context=context)
    from deploykit.doctor import doctor as run

    with console.spinner("looking"):
        report = run(artifact, _contract(), release=release, device=device, precision=precision, config=config)
    if as_json:
        console.print_json(report.to_json())
    else:
        _print(report)
    if report.level == "error":
        raise click.exceptions.Exit(FOUND_ERRORS)


def _contract() -> "TextContract":
    """Return what the packaged text model takes and gives, in the doctor's terms."""
    from deploykit.doctor import Tensor, TextContract
    from deploykit.package.model_config import INPUTS, OUTPUTS

    return TextContract(
        inputs=[Tensor(name=name, kind=kind, dims=(size,), optional=free) for name, kind, size, free in INPUTS],
        outputs=[Tensor(name=name, kind=kind, dims=(size,)) for name, kind, size in OUTPUTS],
    )


def _print(report: "Report") -> None:
    width = max(len(finding.what) for section in report.sections for finding in section.findings)
    for section in report.sections:
        click.secho(section.title, bold=True)
        for finding in section.findings:
            mark = click.style(f"{_MARKS[finding.level]} {finding.level:<8}", fg=_COLOURS[finding.level])
            console.print_folded(f"  {mark}{finding.what:<{width}}  ", finding.found, indent=width + 14)
            if finding.remedy:
                console.print_folded(" " * (width + 14), f"→ {finding.remedy}", indent=width + 16)
        click.echo()
    counts = [finding.level for section in report.sections for finding in section.findings]
    words = [
        f"{counts.count(level)} {level}{'s' * (counts.count(level) != 1)}" for level in ("error", "warning", "note")
    ]
    click.secho(", ".join(words), fg=_COLOURS[report.level], bold=True)
