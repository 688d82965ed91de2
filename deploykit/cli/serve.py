"""`deploykit serve`."""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deploykit.cli import console, gateway_options, options
from deploykit.config import EngineConfig, GatewayConfig, ServeConfig
from deploykit.errors import ConfigError, DeploykitError
from deploykit.listening import is_loopback
from deploykit.sizes import spell_bytes

if TYPE_CHECKING:
    from deploykit.serve import LocalServer
    from deploykit.serve.events import Event


HOST_HELP: Final = "Address of every port, Triton's too: those ask nobody for a key, whatever --api-keys says."


@click.command()
@options.artifacts
@click.option("--host", default=ServeConfig.host, show_default=True, help=HOST_HELP)
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
    "--openai-port",
    type=int,
    default=ServeConfig.openai_port,
    help="OpenAI's API, with a gateway beside Triton; 0 takes a free port. Without it there is no gateway.",
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
@options.ending(ServeConfig)
@options.running
@gateway_options.answering
@options.as_json
def serve(artifacts: tuple[Path, ...], as_json: bool, **settings: Any) -> None:
    """Start Triton on packaged ARTIFACTs or model repositories, until Ctrl-C or SIGTERM.

    SIGHUP (kill -HUP) loads what has changed in them meanwhile, without dropping a stream.
    """
    engine = {field.name: settings.pop(field.name) for field in fields(EngineConfig)}
    # Options that weren't given leave the word to each model's config.pbtxt.
    given = {name: value for name, value in engine.items() if value is not None}
    config = ServeConfig(engine=given, gateway=_gateway(settings, engine), **settings)
    from deploykit.serve import serve as start

    with console.progress() as progress:
        progress("start Triton", 0, 0)
        server = start(artifacts, config, signals=True)
        progress("start Triton", 1, 1)
    with server:
        if as_json:
            console.print_json(
                _addresses(server) | {"pid": os.getpid(), "models": server.models, "facts": server.facts()}
            )
        else:
            _welcome(server, artifacts, config)
        server.wait(
            on_reload=lambda outcome: _tell_reload(server, outcome, as_json=as_json),
            on_event=lambda event: tell_event(event, exit_timeout=config.exit_timeout, as_json=as_json),
        )


def _gateway(settings: dict[str, Any], engine: Mapping[str, Any]) -> dict[str, Any]:
    """Take the gateway's options out of `settings`, and return them.

    Raises:
        ConfigError: one of them was given, and no gateway is wanted.
    """
    gateway = {name: settings.pop(name) for name in gateway_options.ANSWERING}
    changed = [name for name, value in gateway.items() if value != getattr(GatewayConfig, name)]
    if changed and settings["openai_port"] is None:
        spelled = {option.name: option.opts[0] for option in click.get_current_context().command.params}
        changed = [spelled[name] for name in changed]
        raise ConfigError(f"{', '.join(changed)}: there is no gateway to set this for; add --openai-port 9000")
    # What went well is logged where the engine's requests are.
    return {**gateway, **{name: bool(engine[name]) for name in ("log_requests", "log_prompts")}}


def _addresses(server: "LocalServer") -> dict[str, str]:
    openai = {} if server.openai_url is None else {"openai": server.openai_url}
    return {
        "http": server.http_url,
        "grpc": server.grpc_url,
        "metrics": server.metrics_url,
        "health": server.health_url,
        **openai,
    }


def _welcome(server: "LocalServer", artifacts: tuple[Path, ...], config: ServeConfig) -> None:
    for name, value in _addresses(server).items():
        click.echo(f"{name:<8} {value}")
    for model, facts in server.facts().items():
        tell_model(model, facts)
    body = json.dumps({"text_input": "Hello", "max_tokens": 32, "stream": True})
    from deploykit.cli.examples import chatty_models, tell_examples, wants_key

    keys = server.openai_url is not None and wants_key(config.gateway["api_keys"])
    if line := open_ports(config.host, keys=keys):
        click.echo(line)
    click.echo()
    for model in server.models:
        click.echo(f"  curl -N {server.http_url}/v2/models/{model}/generate_stream -d '{body}'\n")
    if server.openai_url:
        tell_examples(server.openai_url, chatty_models(*artifacts), keys=keys)
    click.echo("Ctrl-C stops it.")


def open_ports(host: str, *, keys: bool) -> str | None:
    """Return a warning of what is open to callers without a key, where somebody may think that nothing is."""
    if is_loopback(host):
        whom = "everybody on this machine"
        return f"note     the keys guard the gateway alone: Triton's ports answer {whom} without one" if keys else None
    guarded = "; --api-keys guards the gateway alone" if keys else ""
    return f"note     Triton's ports answer whoever reaches {host}, without a key{guarded}: put a firewall before them"


def tell_model(model: str, facts: Mapping[str, Any]) -> None:
    """Print what a model runs, and what that costs where it costs more than time."""
    if not facts:
        click.echo(f"{'model':<8} {model}")
        return
    source = f" and as many answers' sources of up to {facts['source']}" if "source" in facts else ""
    click.echo(
        f"{'model':<8} {model} (version {facts['version']}): {facts['precision']}, {facts['mode']}, "
        f"{_count(facts['rows'], 'row')} of up to {facts['context']} tokens{source}, "
        f"{spell_bytes(facts['cache_bytes'])} of cache, "
        f"{_count(facts['threads'], 'thread')}"
    )
    if facts["mode"] == "throughput":
        click.echo(f"{'':<8} {_cost(facts)}")


def _count(number: int, name: str) -> str:
    return f"{number} {name if number == 1 else f'{name}s'}"


def _cost(facts: Mapping[str, Any]) -> str:
    """Return what mode `throughput` costs, in the figures of the artifact's own report if it has any."""
    said = f"{facts['precision']} rounds activations, too"
    found = facts["quality"]
    if not {"perplexity_loss", "kl"} <= found.keys():
        return f"{said}; what that costs was not measured on a text that the model knows"
    return f"{said}: perplexity {found['perplexity_loss']:+.2%} beside fp32, KL {found['kl']:.1e}"


def _tell_reload(server: "LocalServer", outcome: "list[str] | DeploykitError", *, as_json: bool) -> None:
    """Print what a reload has done: on stdout, a failure that changed nothing for callers on stderr."""
    failed = isinstance(outcome, DeploykitError)
    if as_json:
        # One line, for scripts that wait for it.
        click.echo(json.dumps({"reloaded": [] if failed else outcome, "error": str(outcome) if failed else None}))
    if isinstance(outcome, DeploykitError):
        click.echo(f"error: reload: {console.printable(str(outcome))}; what served before serves on", err=True)
    elif not as_json:
        facts = server.facts()
        for model in outcome:
            click.echo(f"reload   {model} {'loaded' if model in facts else 'removed'}")
            if model in facts:
                tell_model(model, facts[model])
        if not outcome:
            click.echo("reload   nothing has changed")


def tell_event(event: "Event", *, exit_timeout: float, as_json: bool) -> None:
    """Print on stderr what has died, what serves again, and that the end has begun; for scripts on stdout as well."""
    reason = console.printable(event.reason)
    match event.what:
        case "died":
            line = f"{reason}; it is started again"
        case "restarted":
            line = f"{reason}; it serves again, {event.seconds:.1f} s later"
        case "stopping":
            line = f"stopping: open requests may take {exit_timeout:.0f} s; Ctrl-C again ends it at once"
    click.echo(line, err=True)
    if as_json and event.what != "stopping":
        told = {"reason": event.reason, "seconds": round(event.seconds, 1) if event.what == "restarted" else None}
        click.echo(json.dumps({"event": event.what, **told}))
