"""What the examples that learn pairs share: train, export, ask a real Triton for what was held out, and score it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sacrebleu
from demo import console, deploykit
from rich.table import Table

from deploykit.client import Client
from deploykit.config import ServeConfig
from deploykit.serve import serve

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Score:
    """How near answers come to what was asked for."""

    count: int
    exact: float
    """Part of the answers that are right to the letter."""
    chrf: float
    """chrF of sacrebleu, 0 to 100: how many short strings of letters are in both."""


def train_and_export(folder: Path, *options: object) -> Path:
    """Train on `folder`/data, export what comes of it, and return the artifact."""
    checkpoint, artifact = folder / "checkpoint", folder / "model"
    task = ("--task", "text2text-generation")
    deploykit("train", "--data", folder / "data", "-o", checkpoint, "--overwrite", *task, *options)
    deploykit(
        *("export", checkpoint, "-o", artifact, "--overwrite", "--name", folder.name),
        *("--text", folder / "data" / "val.txt"),
    )
    return artifact


def read_pairs(file: Path) -> Pairs:
    """Return the sources and targets of a file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(source, target) for source, target in (line.split("\t") for line in lines)]


def served(artifact: Path, sources: Sequence[str]) -> list[str]:
    """Return what the model makes of each source, from a Triton that is started for it and stopped again."""
    anywhere = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0)
    with console.status("starting Triton"):
        server = serve(artifact, anywhere)
    with server, console.status(f"translating {len(sources)} texts"), Client(server.grpc_url) as client:
        return client.translate(list(sources))


def score(pairs: Pairs, answers: Sequence[str]) -> Score:
    """Return how good answers to the sources of pairs are."""
    targets = [target for _, target in pairs]
    right = sum(answer == target for answer, target in zip(answers, targets, strict=True))
    return Score(count=len(pairs), exact=right / len(pairs), chrf=sacrebleu.corpus_chrf(list(answers), [targets]).score)


def show(title: str, scores: dict[str, Score]) -> None:
    """Print a row for each score."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("held out")
    for name in ("texts", "exact", "chrF"):
        table.add_column(name, justify="right")
    for name, one in scores.items():
        table.add_row(name, str(one.count), f"{one.exact:.2%}", f"{one.chrf:.1f}")
    console.print(table)


def show_some(pairs: Pairs, answers: Sequence[str], *, count: int = 8) -> None:
    """Print some sources with their answers, spread over all of them; beside wrong ones what is right."""
    for place in range(0, len(pairs), max(len(pairs) // count, 1)):
        (source, target), answer = pairs[place], answers[place]
        wrong = "" if answer == target else f"   (it is {target})"
        console.print(f"  {source} → {answer}{wrong}", markup=False, highlight=False)
