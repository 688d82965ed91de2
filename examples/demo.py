"""The whole way in four minutes: train a small model, export it, serve it from a real Triton, stream from it.

    python examples/demo.py [--seconds 120] [--output demo]

Everything lands in one folder and every server it starts is stopped again, also on Ctrl-C.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from demo_data import write_stdlib_text
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploykit.artifact import Artifact
from deploykit.cli.console import megabytes, program, quality_rows
from deploykit.client import Client
from deploykit.config import ServeConfig
from deploykit.serve import serve
from deploykit.spec import REPORT_PAGE

NAME = "python-writer"
PROMPT = "class Parser:\n    def __init__(self"
STREAMS = 8
OPENAI_PORT = 9000
STOPPED = 0 if "MAKELEVEL" in os.environ else 130
"""Exit status after Ctrl-C: make ends by the signal that it gets, too, and would only add a line of its own."""
console = Console()


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What the client saw."""

    first_token: float
    """Seconds from asking to the first piece of text, one stream."""
    alone: float
    """Tokens a second of one stream."""
    together: float
    """Tokens a second of `STREAMS` streams at once, summed."""


def main() -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=120, help="training time")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for everything the demo makes")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        data, checkpoint, artifact = (options.output / name for name in ("data", "checkpoint", "model"))
        step(1, "Gather text: the Python standard library's sources and documentation")
        write_stdlib_text(data)
        step(2, f"Train a 2M-parameter Llama on it for {options.seconds:.0f} seconds")
        deploykit("train", "--data", data, "-o", checkpoint, "--overwrite", "--seconds", options.seconds)
        step(3, "Export: convert, optimize, quantize, validate, package")
        deploykit("export", checkpoint, "-o", artifact, "--overwrite", "--name", NAME, "--text", data / "val.txt")
        step(4, "Serve it from Triton and stream a completion")
        speed = stream(artifact)
        console.print(summary(checkpoint, artifact, speed))
        console.print(f"Done in {time.monotonic() - began:.0f} s; Triton is stopped. What to do next:\n")
        print(next_steps(artifact))
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        return STOPPED
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


def step(number: int, what: str) -> None:
    console.rule(f"[bold]{number}. {what}", align="left")


def deploykit(verb: str, *arguments: object) -> None:
    """Run the command line as a user would, and show what was run."""
    words = [verb, *map(str, arguments)]
    console.print(f"[dim]$ deploykit {' '.join(words)}", highlight=False)
    process = subprocess.Popen([sys.executable, "-m", "deploykit", *words])
    try:
        status = process.wait()
    except KeyboardInterrupt:
        # Ctrl-C reached the child too, which cleans up and says that it has stopped: once is enough.
        process.wait()
        sys.exit(STOPPED)
    if status:
        raise subprocess.CalledProcessError(status, words)


def stream(artifact: Path) -> Speed:
    """Start Triton, print a streamed completion, measure, and stop Triton."""
    anywhere = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0)
    with console.status("starting Triton"):
        server = serve(artifact, anywhere)
    with server, Client(server.grpc_url, model=NAME) as client:
        console.print(f"[green]ready[/] at {server.http_url} (HTTP) and {server.grpc_url} (gRPC)\n", highlight=False)
        console.print(PROMPT, end="", style="bold cyan", highlight=False)
        for chunk in client.generate(PROMPT, stream=True, max_tokens=100, temperature=0.6, top_k=20, seed=1):
            console.print(chunk.text, end="", markup=False, highlight=False, soft_wrap=True)
        console.print("\n")
        return measure(client)


def measure(client: Client) -> Speed:
    """Time one stream, then several at once."""
    asked = time.perf_counter()
    first, tokens = 0.0, 0
    for chunk in client.generate(PROMPT, stream=True, max_tokens=128, ignore_eos=True):
        first = first or time.perf_counter() - asked
        tokens = chunk.num_output_tokens
    alone = (tokens - 1) / (time.perf_counter() - asked - first)

    def one(number: int) -> int:
        answer = client.generate(f"# {number}\n{PROMPT}", max_tokens=128, ignore_eos=True)
        return answer.num_output_tokens

    with ThreadPoolExecutor(STREAMS) as pool:
        asked = time.perf_counter()
        together = sum(pool.map(one, range(STREAMS))) / (time.perf_counter() - asked)
    return Speed(first_token=first, alone=alone, together=together)


def summary(checkpoint: Path, folder: Path, speed: Speed) -> Table:
    """Return the demo's one table."""
    artifact = Artifact.open(folder)
    table = Table(show_header=False, title="What you have now", title_justify="left", title_style="bold")
    for precision in artifact.precisions():
        served = ", served" if precision == artifact.manifest.served else ""
        table.add_row(f"{precision} model{served}", megabytes(artifact.size_of(precision)))
    for name, value in quality_rows(artifact):
        # Red where a limit is passed on a part of the text.
        table.add_row(name, Text.from_ansi(value))
    table.add_row("first token", f"{speed.first_token * 1e3:.1f} ms")
    table.add_row("one stream", f"{speed.alone:.0f} tokens/s")
    table.add_row(f"{STREAMS} streams", f"{speed.together:.0f} tokens/s")
    table.add_row("served as", NAME)
    table.add_row("checkpoint", str(checkpoint))
    table.add_row("ONNX", str(folder / "onnx"))
    table.add_row("Triton repository", str(folder / "model_repository"))
    table.add_row("report", str(folder / REPORT_PAGE))
    return table


def next_steps(artifact: Path) -> str:
    """Return commands to paste, each with what it does."""
    run, model = program(), shlex.quote(str(artifact))
    steps = {
        f"{run} generate {model} {shlex.quote('class Parser:')}": "continue a text",
        f"{run} chat {model} --raw": "the same, line by line",
        f"{run} serve {model}": "serve it from Triton",
        f"{run} serve {model} --openai-port {OPENAI_PORT}": f'and by OpenAI\'s API, as "model": "{NAME}"',
    }
    width = max(map(len, steps))
    return "".join(f"    {command:<{width}}  # {what}\n" for command, what in steps.items())


if __name__ == "__main__":
    sys.exit(main())
