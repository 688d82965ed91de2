"""What a person sees: bars on stderr while something runs, one result on stdout."""

import json
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError
from deploykit.progress import Progress
from deploykit.spec import REPORT_PAGE

if TYPE_CHECKING:
    from rich.progress import TaskID

_QUIET: Final = 30.0
"""Seconds after which a log hears again how far a piece of work is."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Show reports as bars on a terminal, and as one line for each finished piece of work elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=32),
        TimeElapsedColumn(table_column=Column(min_width=7)),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Bars(*columns, console=Console(stderr=True), refresh_per_second=8) as bars:
        yield _Bars(bars)


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Show on a terminal that something goes on, and nothing of it once it is over."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


class _Bars:
    """Reports as rich progress bars, a bar for each piece of work."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: float, total: float, note: str = "") -> None:
        # No total means that nobody knows how long it takes: rich then shows a bar that moves.
        length = total or None
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=length, note="")
        self._bars.update(self._tasks[what], completed=done, total=length, note=note)


class _Lines:
    """Reports as lines, for logs: what was finished and how long it took, and now and then how far long work is."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def __call__(self, what: str, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        began = self._began.setdefault(what, now)
        noted = f", {note}" if note else ""
        if total and done >= total:
            del self._began[what]
            self._told.pop(what, None)
            click.echo(f"{what}: {now - began:.1f} s{noted}", err=True)
        elif total and now - self._told.get(what, began) >= _QUIET:
            self._told[what] = now
            click.echo(f"{what}: {done / total:.0%}{noted}", err=True)


def print_json(data: Any) -> None:
    """Print `data` as JSON on stdout."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    # A file's name may hold bytes that are no text: JSON writes such a one as \udcXX, and so does this.
    click.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def printable(line: str) -> str:
    """Return a line without what a terminal would obey."""
    return "".join(char if char.isprintable() else "\ufffd" for char in line)


def print_folded(first: str, text: str, *, indent: int) -> None:
    """Print text after `first`, folded to the terminal's width and indented; in one line where there is no terminal."""
    if not sys.stdout.isatty():
        click.echo(first + text)
        return
    room = max(40, shutil.get_terminal_size().columns - indent)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    click.echo(first + f"\n{' ' * indent}".join(lines))


def program() -> str:
    """Return what starts this deploykit from the folder where its user is, as words for a shell."""
    script = Path(sys.executable).with_name("deploykit")
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -m deploykit"
    found = shutil.which("deploykit")
    if found and script.samefile(found):
        return "deploykit"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))


def megabytes(size: float) -> str:
    """Return a size as a reader likes it: `1.6 MB`."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def artifact_json(artifact: Artifact) -> dict[str, Any]:
    """Return what a stage reports with --json."""
    manifest = artifact.manifest
    return {
        "output": str(artifact.path),
        "stage": manifest.history[-1].stage,
        "architecture": manifest.architecture,
        "served": manifest.served,
        "precisions": {p: artifact.size_of(p) for p in artifact.precisions()},
        "parity": dict(manifest.parity),
        "history": [{"stage": r.stage, "options": r.options, "result": r.result} for r in manifest.history],
    }


def print_artifact(artifact: Artifact, *, json_wanted: bool) -> None:
    """Print what a stage left behind: as JSON, or as a short table."""
    if json_wanted:
        print_json(artifact_json(artifact))
        return
    manifest = artifact.manifest
    rows = [
        ("artifact", str(artifact.path)),
        (
            "model",
            f"{manifest.architecture}, {len(manifest.decoder.layers)} layers, vocabulary {manifest.decoder.vocab_size}",
        ),
        *((p, _size_note(artifact, p)) for p in artifact.precisions()),
        *quality_rows(artifact),
        *([("report", str(artifact.path / REPORT_PAGE))] if REPORT_PAGE in manifest.files else []),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def _size_note(artifact: Artifact, precision: Any) -> str:
    served = "  (served)" if precision == artifact.manifest.served else ""
    return f"{megabytes(artifact.size_of(precision))}{served}"


def quality_rows(artifact: Artifact) -> list[tuple[str, str]]:
    """Return what `validate` found, a row for each precision: its name and the figures that matter."""
    try:
        return [
            ("parity", _parity_note(found)) if precision == "fp32" else (f"{precision} quality", _quality_note(found))
            for precision, found in artifact.manifest.parity.items()
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"manifest.json: its figures can't be read: {error!r}; validate the artifact") from None


def _parity_note(found: Mapping[str, Any]) -> str:
    worst = max(case["max_abs_error"] for case in found["cases"].values())
    # Without a reference the graph was compared with its own prefill.
    against = "onnx uncached" if found["reference"] == "none" else found["reference"]
    cases = len(found["cases"])
    return f"max |onnx - {against}| = {worst:.1e}, allowed {found['allowed']:.1e}, in {cases} cases"


def _quality_note(found: Mapping[str, Any]) -> str:
    judged = "" if found["trained"] else "; not judged: the model doesn't know this text"
    text = f", on {printable(found['text'])}" if found.get("text") else ""
    note = (
        f"perplexity {found['perplexity']:.2f} against {found['perplexity_fp32']:.2f} "
        f"({found['perplexity_loss']:+.2%}), "
        f"KL {found['kl']:.1e}, same top-1 {found['top1_agreement']:.1%}{text}{judged}"
    )
    # Artifacts of before there were slices have no such field.
    over = found.get("slices_over", [])
    return click.style(f"{note}; past a limit on {', '.join(over)}", fg="red") if over else note
