"""`deploykit gateway`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli import gateway_options, options
from deploykit.config import GatewayConfig

if TYPE_CHECKING:
    from deploykit.gateway.server import Listening


@click.command()
@options.artifacts
@click.option(
    "--triton",
    default=GatewayConfig.triton,
    show_default=True,
    metavar="HOST:PORT",
    help="Triton's gRPC endpoint; grpcs:// for TLS. It may come up later.",
)
@click.option("--host", default=GatewayConfig.host, show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=int, default=GatewayConfig.port, show_default=True, help="Port to listen on; 0 takes a free one."
)
@gateway_options.answering
@options.ending(GatewayConfig)
@click.option(
    "--log-requests/--no-log-requests",
    default=GatewayConfig.log_requests,
    show_default=True,
    help="A line of the log for each request that went well; those that failed always have one.",
)
@click.option("--log-prompts", is_flag=True, help="Write prompts into the log.")
@options.as_json
def gateway(artifacts: tuple[Path, ...], as_json: bool, **settings: Any) -> None:
    """Answer OpenAI's API in front of a Triton that serves ARTIFACTs, until Ctrl-C or SIGTERM.

    It reads their tokenizers and chat templates, and asks Triton for the rest. SIGHUP (kill -HUP) reads them again.
    """
    config = GatewayConfig(**settings)
    from deploykit.gateway.server import run

    def welcome(listening: "Listening") -> None:
        if as_json:
            click.echo(json.dumps({"openai": f"{listening.url}/v1", "pid": os.getpid()}))
        else:
            _welcome(listening)

    def tell_triton(state: str) -> None:
        if not as_json:
            click.echo(f"triton   {config.triton}: {state}")

    run(artifacts, config, on_listening=welcome, on_triton=tell_triton)


def _welcome(listening: "Listening") -> None:
    from deploykit.cli.examples import tell_examples

    click.echo(f"openai   {listening.url}/v1")
    for model, chats in listening.models.items():
        click.echo(f"model    {model}{'' if chats else ' (no chat template: completions only)'}")
    click.echo(f"keys     {'wanted' if listening.keys else 'none: whoever reaches the port is let in (--api-keys)'}\n")
    tell_examples(f"{listening.url}/v1", listening.models, keys=listening.keys)
    click.echo("Ctrl-C stops it.")
