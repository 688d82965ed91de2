"""`deploykit gateway`."""

import json
import os
from pathlib import Path
from typing import Any

import click

from deploykit.cli import options
from deploykit.config import GatewayConfig


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
@options.answering
@click.option(
    "--exit-timeout",
    type=float,
    default=GatewayConfig.exit_timeout,
    show_default=True,
    help="Seconds open streams get at shutdown.",
)
@click.option("--log-prompts", is_flag=True, help="Write prompts into the log.")
@options.as_json
def gateway(artifacts: tuple[Path, ...], as_json: bool, **settings: Any) -> None:
    """Answer OpenAI's API in front of a Triton that serves ARTIFACTs, until Ctrl-C or SIGTERM.

    It reads their tokenizers and chat templates, and asks Triton for the rest. SIGHUP (kill -HUP) reads them again.
    """
    config = GatewayConfig(**settings)
    from deploykit.gateway.server import run

    def welcome(url: str) -> None:
        if as_json:
            click.echo(json.dumps({"openai": f"{url}/v1", "pid": os.getpid()}))
        else:
            click.echo(f"openai   {url}/v1")
            click.echo("\nCtrl-C stops it.")

    run(artifacts, config, on_listening=welcome)
