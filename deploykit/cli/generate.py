"""`deploykit generate`."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from deploykit.cli import console, options
from deploykit.cli.folders import model_folder
from deploykit.errors import ConfigError


@click.command()
@click.argument("artifact")
@click.argument("prompt")
@options.sampling
@click.option("-n", "n", type=int, default=None, help="Answers to one prompt, each printed when all are complete.")
@click.option(
    "--logprobs",
    type=int,
    default=None,
    metavar="N",
    help="With --json: log-probabilities of its tokens, and of the N likeliest.",
)
@options.precision
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@options.as_json
def generate(artifact: str, prompt: str, precision: Any, no_stream: bool, as_json: bool, **sampling: Any) -> None:
    """Continue PROMPT (`-` reads it from stdin) with the same engine as Triton's, in this process.

    An encoder-decoder reads PROMPT and answers with a text of its own: a translation, say.
    """
    if sampling["logprobs"] is not None and not as_json:
        raise ConfigError("--logprobs goes with --json; without it only the text is printed")
    from deploykit.chat import is_address

    if is_address(artifact):
        raise ConfigError(
            f"{artifact}: generate runs an artifact in this process; a server is asked by "
            f"`deploykit chat {artifact} --raw`, or from Python by deploykit.client"
        )
    folder = model_folder(Path(artifact))
    from deploykit.engine import Engine, EngineError, SamplingParams

    text = sys.stdin.read() if prompt == "-" else prompt
    given = {name: value for name, value in sampling.items() if value not in (None, ())}
    params = SamplingParams.from_mapping(given)
    with console.spinner("loading the model"):
        engine = Engine.open(folder, precision=precision)
    with engine:
        if as_json and params.n == 1:
            console.print_json(dataclasses.asdict(engine.generate(text, params)))
        elif as_json:
            console.print_json([dataclasses.asdict(answer) for answer in engine.choices(text, params)])
        elif no_stream or params.n > 1:
            for number, answer in enumerate(engine.choices(text, params), 1):
                if params.n > 1:
                    click.secho(f"{number} of {params.n}", dim=True)
                click.echo(answer.text)
        else:
            for event in engine.stream(text, params):
                click.echo(event.text, nl=False)
                sys.stdout.flush()
                if event.error:
                    raise EngineError(event.error)
            click.echo()
