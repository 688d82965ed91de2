"""`deploykit serve`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli import console, options
from deploykit.config import ServeConfig

if TYPE_CHECKING:
    from deploykit.serve import LocalServer


@click.command()
@options.artifact
@click.option("--host", default=ServeConfig.host, show_default=True, help="Address to listen on.")
@click.option(
    "--http-port",
    type=int,
    default=ServeConfig.http_port,
    show_default=True,
    help="Triton's HTTP port; 0 takes a free one.",
)
@click.option("--grpc-port", type=int, default=ServeConfig.grpc_port, show_default=True, help="Triton's gRPC port.")
@click.option(
    "--metrics-port", type=int, default=ServeConfig.metrics_port, show_default=True, help="Triton's metrics port."
)
@click.option(
    "--health-port",
    type=int,
    default=ServeConfig.health_port,
    show_default=True,
    help="Liveness and readiness of the whole.",
)
@click.option(
    "--startup-timeout", type=float, default=ServeConfig.startup_timeout, show_default=True, help="Seconds until ready."
)
@click.option(
    "--heartbeat-timeout",
    type=float,
    default=ServeConfig.heartbeat_timeout,
    show_default=True,
    help="Seconds of silence after which a backend is restarted.",
)
@click.option(
    "--exit-timeout",
    type=float,
    default=ServeConfig.exit_timeout,
    show_default=True,
    help="Seconds open streams get at shutdown.",
)
@options.as_json
def serve(artifact: Path, as_json: bool, **settings: Any) -> None:
    """Start Triton on a packaged ARTIFACT or a model repository, until Ctrl-C or SIGTERM."""
    config = ServeConfig(**settings)
    from deploykit.serve import serve as start

    with console.progress() as progress:
        progress("start Triton", 0, 0)
        server = start(artifact, config, signals=True)
        progress("start Triton", 1, 1)
    with server:
        if as_json:
            console.print_json(_addresses(server) | {"models": server.models})
        else:
            _welcome(server)
        server.wait()


def _addresses(server: "LocalServer") -> dict[str, str]:
    return {
        "http": server.http_url,
        "grpc": server.grpc_url,
        "metrics": server.metrics_url,
        "health": server.health_url,
    }


def _welcome(server: "LocalServer") -> None:
    for name, value in (_addresses(server) | {"models": ", ".join(server.models)}).items():
        click.echo(f"{name:<8} {value}")
    body = json.dumps({"text_input": "Hello", "max_tokens": 32, "stream": True})
    click.echo(f"\n  curl -N {server.http_url}/v2/models/{server.models[0]}/generate_stream -d '{body}'\n")
    click.echo("Ctrl-C stops it.")
