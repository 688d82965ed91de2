"""Options of OpenAI's API, in a process beside `serve` or in one of its own."""

from pathlib import Path
from typing import Final

import click

from deploykit.cli import options
from deploykit.config import GatewayConfig, MetricsAccess
from deploykit.sizes import spell_bytes

answering = options.together(
    click.option(
        "--api-keys",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        metavar="FILE",
        help="One key a line, KEY or NAME:KEY, read again when it changes; those in DEPLOYKIT_API_KEYS count, "
        "too. Everybody is let in by default. They guard the gateway alone; Triton's own ports ask for none.",
    ),
    click.option(
        "--metrics-access",
        "metrics",
        type=options.choices(MetricsAccess),
        default=GatewayConfig.metrics,
        show_default=True,
        help="Who may read the gateway's /metrics: whoever has a key, if there are any; everybody; nobody.",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Origin whose pages may call from a browser, or * for all; may be repeated.",
    ),
    click.option(
        "--max-body",
        callback=options.amount,
        default=spell_bytes(GatewayConfig.max_body),
        show_default=True,
        metavar="SIZE",
        help="Largest body of a request.",
    ),
    click.option(
        "--max-requests",
        type=int,
        default=GatewayConfig.max_requests,
        show_default=True,
        help="Requests that may be open.",
    ),
    click.option(
        "--body-timeout",
        type=float,
        default=GatewayConfig.body_timeout,
        show_default=True,
        help="Seconds a caller may take to send a request, or to read what waits for it.",
    ),
    click.option(
        "--answer-timeout",
        "timeout",
        type=float,
        default=GatewayConfig.timeout,
        show_default=True,
        help="Seconds until a whole answer must be there.",
    ),
)
"""Fields of `GatewayConfig`, but for where it listens, how it ends, and prompts in its log."""

ANSWERING: Final = (
    "api_keys",
    "metrics",
    "cors_origins",
    "max_body",
    "max_requests",
    "body_timeout",
    "timeout",
)
"""What `answering` adds, as fields of `GatewayConfig`."""
