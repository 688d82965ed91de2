"""Options that several verbs share, spelled once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from deploykit.config import (
    ConvertConfig,
    EngineConfig,
    GatewayConfig,
    Method,
    Mode,
    Quantization,
    QuantizeConfig,
    Rounding,
    ServeConfig,
    ValidateConfig,
)
from deploykit.errors import ConfigError
from deploykit.sizes import parse_bytes
from deploykit.spec import VARIANT_FILES

F = TypeVar("F", bound=Callable[..., Any])


def together(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return one decorator that applies `decorators` so that --help lists them in this order."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def choices(literal: Any) -> click.Choice[str]:
    """Return a click type that takes what a `Literal` lists."""
    return click.Choice(literal.__args__)


output = together(
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        metavar="DIR",
        help="Where to write the result.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace an artifact that is there already."),
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def ending(config: type[ServeConfig] | type[GatewayConfig]) -> Callable[[F], F]:
    """Return the options of a server that callers leave: when it ends, and before."""
    return together(
        click.option(
            "--exit-timeout",
            type=float,
            default=config.exit_timeout,
            show_default=True,
            help="Seconds open streams get at shutdown.",
        ),
        click.option(
            "--connection-age",
            type=float,
            default=config.connection_age,
            metavar="SECONDS",
            help="Have callers connect anew after that, so that a balancer moves them on; open streams stay.",
        ),
    )


throughput = click.option(
    "--throughput",
    is_flag=True,
    help="Pack a dynamic-int8 model as well, for `serve --mode throughput`: faster in batches, twice the weights.",
)

artifact = click.argument("artifact", type=click.Path(path_type=Path))

artifacts = click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True, type=click.Path(path_type=Path))


def amount(_context: click.Context, _option: click.Parameter, given: str | None) -> int | None:
    """Return how many bytes an option's `2GiB` is, None where it wasn't given."""
    try:
        return None if given is None else parse_bytes(given)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


_UNSET: Final = "that of each model's config.pbtxt"

running = together(
    click.option(
        "--mode",
        type=choices(Mode),
        default=None,
        help="What runs: the precision it was exported to serve, or dynamic-int8, which export --throughput adds: "
        f"faster in batches, and rounded more.  [default: {_UNSET}, {EngineConfig.mode}]",
    ),
    click.option(
        "--cache-memory",
        callback=amount,
        default=None,
        metavar="SIZE",
        help="Memory for keys and values, such as 512MiB or 2GiB; what rows and context take by default, at most half "
        "of what is free.",
    ),
    click.option(
        "--max-rows",
        type=int,
        default=None,
        help=f"Requests that advance together.  [default: {_UNSET}, {EngineConfig.max_rows}]",
    ),
    click.option(
        "--max-queue",
        type=int,
        default=None,
        help=f"Requests that may wait.  [default: {_UNSET}, {EngineConfig.max_queue}]",
    ),
    click.option(
        "--max-context",
        type=int,
        default=None,
        metavar="TOKENS",
        help="Longest prompt and answer together; the model's limit by default, at most 4096.",
    ),
    click.option(
        "--prefill-chunk",
        type=int,
        default=None,
        metavar="TOKENS",
        help=f"Prompt tokens run between two steps of others.  [default: {_UNSET}, {EngineConfig.prefill_chunk}]",
    ),
    click.option(
        "--threads",
        type=int,
        default=None,
        help="ONNX Runtime's threads for each model; the cores by default, shared out evenly among several models.",
    ),
    click.option(
        "--log-requests/--no-log-requests",
        default=None,
        help="A line of JSON on stderr for each request that has ended: its id, tokens, times, how it ended.  "
        f"[default: {_UNSET}, no]",
    ),
    click.option(
        "--log-prompts/--no-log-prompts",
        default=None,
        help=f"Put the prompts into those lines, too.  [default: {_UNSET}, no]",
    ),
)
"""Fields of `EngineConfig`, all of them, for every model that is served."""

precision = click.option(
    "--precision",
    type=click.Choice(list(VARIANT_FILES)),
    default=None,
    help="Precision to run instead of the packaged one.",
)

reading = together(
    click.option(
        "--method",
        type=choices(Method),
        default=ConvertConfig.method,
        show_default=True,
        help="Write a fused graph from the weights, or trace the PyTorch model.",
    ),
    click.option("--opset", type=int, default=ConvertConfig.opset, show_default=True, help="ONNX opset."),
    click.option(
        "--max-context",
        type=int,
        default=None,
        metavar="TOKENS",
        help="Longest sequence; the checkpoint's own limit by default.",
    ),
    click.option("--revision", default=None, help="Branch, tag or commit of a hub id."),
    click.option("--cache-dir", type=click.Path(path_type=Path), default=None, help="Where hub ids are downloaded to."),
    click.option("--trust-remote-code", is_flag=True, help="Run Python code that the checkpoint ships."),
    click.option("--allow-pickle", is_flag=True, help="Read pytorch_model.bin where there is no safetensors file."),
)

QUANTIZING = (
    "precision",
    "block_size",
    "rounding",
    "calibration",
    "symmetric",
    "more_bits",
    "sensitive",
    "head_bits",
    "table_bits",
)
"""What `quantizing` adds, as fields of `QuantizeConfig`."""

quantizing = together(
    click.option(
        "--quantize",
        "precision",
        type=choices(Quantization),
        default=QuantizeConfig.precision,
        show_default=True,
        help="Precision to serve.",
    ),
    click.option(
        "--block-size",
        type=int,
        default=QuantizeConfig.block_size,
        show_default=True,
        help="Weights that share a scale (int8, int4).",
    ),
    click.option(
        "--rounding",
        type=choices(Rounding),
        default=QuantizeConfig.rounding,
        show_default=True,
        help="Round weights to nearest (rtn), by HQQ, or by GPTQ on text: slower and better, in this order.",
    ),
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        default=None,
        metavar="FILE",
        help="Text for GPTQ and --sensitive, other than --text; English documentation by default.",
    ),
    click.option(
        "--symmetric/--asymmetric",
        default=QuantizeConfig.symmetric,
        show_default=True,
        help="Levels around zero, or a zero point for each block: a little better in int4, slower for one stream.",
    ),
    click.option(
        "--more-bits",
        multiple=True,
        metavar="NAME",
        help="Keep 8 bits in weights with this word in their names, such as layers.0 or down_proj; may be repeated.",
    ),
    click.option(
        "--sensitive",
        type=float,
        default=QuantizeConfig.sensitive,
        show_default=True,
        metavar="PERCENT",
        help="Share of int4's weights that keep 8 bits: those that the model suffers most from.",
    ),
    click.option(
        "--head-bits",
        type=int,
        default=QuantizeConfig.head_bits,
        show_default=True,
        help="Bits of the head and the embedding table in int4: 4 is smaller and faster, 8 better.",
    ),
    click.option(
        "--table-bits",
        type=int,
        default=QuantizeConfig.table_bits,
        help="Bits of the embedding table in int4, where they aren't to be the head's: 8 costs memory only.",
    ),
)


def _texts(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, Path] | None:
    """Return the files by label, a file without one by its name; None where there is none."""
    files: dict[str, Path] = {}
    for text in given:
        label, sign, path = text.partition("=")
        # A file may have an equals sign in its own name.
        labelled = bool(sign and label) and not Path(text).exists()
        name, file = (label, Path(path)) if labelled else (Path(text).name, Path(text))
        if name in files:
            raise click.BadParameter(f"two texts are called {name!r}; name them apart: LABEL=FILE")
        files[name] = file
    return files or None


judging = together(
    click.option(
        "--atol", type=float, default=ValidateConfig.atol, show_default=True, help="Largest deviation of a logit."
    ),
    click.option(
        "--max-kl",
        type=float,
        default=ValidateConfig.max_kl,
        show_default=True,
        help="Largest mean KL divergence after quantization, nats a token.",
    ),
    click.option(
        "--max-perplexity-loss",
        type=float,
        default=ValidateConfig.max_perplexity_loss,
        show_default=True,
        help="Largest relative growth of perplexity by quantization.",
    ),
    click.option(
        "--text",
        multiple=True,
        callback=_texts,
        metavar="[LABEL=]FILE",
        help="Text to measure quality on; may be repeated, as for languages, which are then told apart. "
        "Prose and code of Python's own by default. An encoder-decoder's: SOURCE<TAB>ANSWER lines, or sources alone.",
    ),
    click.option(
        "--report",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        metavar="FILE",
        help="Write the report as an HTML page here too, even if a limit is passed.",
    ),
)


def sampling(function: F) -> F:
    """Add the options of a generation request."""
    return together(
        click.option(
            "--max-tokens",
            type=int,
            default=None,
            help="Longest answer, in tokens.  [default: 64; of chat as many as there is room for, over HTTP 1024]",
        ),
        click.option(
            "--temperature", type=float, default=None, help="0 is greedy, the default; higher is more random."
        ),
        click.option("--top-k", type=int, default=None, help="Sample from the K most likely tokens."),
        click.option(
            "--top-p", type=float, default=None, help="Sample from the most likely tokens that hold this probability."
        ),
        click.option(
            "--min-p",
            type=float,
            default=None,
            help="Sample from tokens at least this share as likely as the likeliest.",
        ),
        click.option(
            "--repetition-penalty", type=float, default=None, help="Above 1, tokens seen before are less likely."
        ),
        click.option(
            "--presence-penalty", type=float, default=None, help="Taken from the logits of tokens already written."
        ),
        click.option(
            "--frequency-penalty", type=float, default=None, help="The same, times how often they were written."
        ),
        click.option("--bad-words", multiple=True, metavar="TEXT", help="Never write this; may be repeated."),
        click.option("--seed", type=int, default=None, help="Make sampling repeatable."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be repeated."),
        click.option("--min-tokens", type=int, default=None, help="Shortest answer, in tokens."),
        click.option("--ignore-eos", is_flag=True, default=None, help="Go on past the end-of-text token."),
    )(function)
