"""`deploykit chat`."""

import sys
from pathlib import Path
from typing import Any, Final

import click

from deploykit.cli import console, options
from deploykit.cli.folders import model_folder
from deploykit.errors import ConfigError

RAW_TOKENS: Final = 64
"""Of an answer in raw mode, where a model seldom ends by itself."""


@click.command()
@click.argument("target", metavar="ARTIFACT|URL")
@click.option("--system", default=None, metavar="TEXT", help="What the model is told before the conversation.")
@click.option(
    "--raw", is_flag=True, help="Continue what is written, without a chat template: for models not made to chat."
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Go on with a conversation that /save wrote.",
)
@options.sampling
@options.precision
@click.option("-m", "--model", default=None, help="With a URL: the model to ask, where the server has several.")
@click.option(
    "--api-key",
    envvar="DEPLOYKIT_API_KEY",
    default=None,
    help="With a URL: the key to send; better in the environment, as DEPLOYKIT_API_KEY, where others can't see it.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="With a URL: who vouches for the server.",
)
@click.option("--timeout", type=float, default=600.0, show_default=True, help="With a URL: seconds an answer may take.")
def chat(target: str, resume: Path | None, system: str | None, **given: Any) -> None:
    """Talk with a model: of an artifact in this process, or behind Triton's gRPC port or the gateway's HTTP.

    Lines from a pipe are answered one by one, with nothing but the answers on stdout. /help lists what else can be
    typed.
    """
    from deploykit.chat import Conversation, Pipe, Talk, Terminal, load
    from deploykit.chat.commands import COMMANDS, SETTINGS

    conversation, sampling, before = load(resume) if resume else (Conversation(), {}, "")
    if system is not None:
        conversation.system = system
    sampling |= {name: given[name] for name in SETTINGS if given[name] not in (None, ())}
    if given["raw"]:
        sampling.setdefault("max_tokens", RAW_TOKENS)
    model = _open(target, **{name: value for name, value in given.items() if name not in SETTINGS})
    try:
        model.check(sampling)
        person = sys.stdin.isatty() and sys.stdout.isatty()
        screen = Terminal(tuple(COMMANDS), conversation.texts()) if person else Pipe()
        if person:
            screen.note(f"{model.name}, {model.about}. Ctrl-D leaves, /help says what else there is.")
        if resume:
            screen.note(_resumed(len(conversation.texts()), before, model.name))
        Talk(model, conversation, screen, sampling=sampling, file=resume, target=target).run()
    finally:
        model.close()


def _resumed(turns: int, before: str, now: str) -> str:
    held = f"; it was held with {before}" if before not in ("", now) else ""
    return f"the conversation goes on: {turns} message{'' if turns == 1 else 's'} of yours so far{held}"


def _open(
    target: str,
    *,
    raw: bool,
    precision: Any,
    model: str | None,
    api_key: str | None,
    ca: Path | None,
    timeout: float,
) -> Any:
    """Return what answers."""
    from deploykit.chat import is_address, open_local, open_remote

    if not is_address(target):
        if model or ca:
            raise ConfigError("--model and --ca go with a URL; an artifact holds one model, which runs here")
        with console.spinner("loading the model"):
            return open_local(model_folder(Path(target)), precision=precision, raw=raw)
    if precision:
        raise ConfigError("--precision goes with an artifact; a server runs what it was started with")
    from deploykit.client import TLS

    return open_remote(target, raw=raw, model=model, api_key=api_key, tls=TLS(ca=ca) if ca else None, timeout=timeout)
