"""`deploykit export`: the main job."""

import shlex
from pathlib import Path
from typing import Any

import click

from deploykit.cli import console, options
from deploykit.config import ConvertConfig, QuantizeConfig, Until, ValidateConfig


@click.command()
@click.argument("checkpoint")
@options.output
@options.quantizing
@click.option(
    "--max-quality-loss",
    type=float,
    default=QuantizeConfig.max_quality_loss,
    show_default=True,
    help="Largest relative growth of perplexity that --quantize auto accepts.",
)
@options.throughput
@click.option("--name", default=None, help="The Triton model's name; the checkpoint's own by default.")
@click.option("--until", type=options.choices(Until), default="packaged", show_default=True, help="Stop after this.")
@options.judging
@options.reading
@options.as_json
def export(
    checkpoint: str,
    output: Path,
    overwrite: bool,
    name: str | None,
    throughput: bool,
    until: Any,
    as_json: bool,
    **rest: Any,
) -> None:
    """Turn CHECKPOINT (a Hugging Face folder or hub id) into a tested, quantized model that Triton serves."""
    judging = {key: rest.pop(key) for key in ("atol", "max_kl", "max_perplexity_loss", "text", "report")}
    quantizing = QuantizeConfig(**{key: rest.pop(key) for key in (*options.QUANTIZING, "max_quality_loss")})
    validating, reading = ValidateConfig(**judging), ConvertConfig(**rest)
    from deploykit.draft import check_target

    check_target(output, overwrite=overwrite)
    with console.progress() as progress:
        progress("load libraries", 0, 0)
        from deploykit.pipeline import export as run

        progress("load libraries", 1, 1)
        result = run(
            checkpoint,
            output,
            quantize=quantizing,
            name=name,
            throughput=throughput,
            until=until,
            convert=reading,
            validate=validating,
            overwrite=overwrite,
            progress=progress,
        )
    console.print_artifact(result, json_wanted=as_json)
    if until == "packaged" and not as_json:
        click.echo(f"\nserve it:  {console.program()} serve {shlex.quote(str(output))}")
