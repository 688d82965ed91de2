"""`deploykit validate --bisect` and `--against`: one comparison, printed as a table or as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deploykit.cli import console
from deploykit.config import ConvertConfig, ValidateConfig

if TYPE_CHECKING:
    from deploykit.validate.against import Compared
    from deploykit.validate.bisect import Bisection

RUNTIMES: Final = ("triton", "genai", "optimum", "onnxruntime")


def print_bisection(
    artifact: Path,
    checkpoint: str,
    config: ValidateConfig,
    reading: ConvertConfig,
    precision: Any,
    *,
    json_wanted: bool,
) -> None:
    """Print how far each place of the model is off.

    Raises:
        ParityError: fp32 differs from PyTorch somewhere.
    """
    with console.progress() as progress:
        progress("load libraries", 0, 0)
        from deploykit.artifact import Artifact
        from deploykit.convert.hidden import torch_hidden_states
        from deploykit.validate.bisect import bisect

        progress("load libraries", 1, 1)
        source = Artifact.open(artifact)
        found = bisect(
            source,
            torch_hidden_states(checkpoint, reading),
            config,
            precision=precision or "fp32",
            progress=progress,
        )
    if json_wanted:
        console.print_json(found.to_json())
    else:
        click.echo("\n".join(_bisection_lines(found)))
    found.check()


def _bisection_lines(found: "Bisection") -> list[str]:
    width = max(len(place.name) for place in found.places)
    lines = [f"{'place':<{width}}  max error  relative   of {found.precision} beside {found.truth}"]
    for place in found.places:
        if place.max_abs_error is None:
            lines.append(f"{place.name:<{width}}  (fused with its neighbours)")
            continue
        mark = "  <- the first that differs" if found.precision == "fp32" and place is found.first else ""
        figures = f"{place.max_abs_error:<9.2e}  {place.relative_error:<8.1e}"
        lines.append(f"{place.name:<{width}}  {figures}{mark}".rstrip())
    if found.precision != "fp32":
        lines.append(f"the error grows most at {found.first.name if found.first else 'no layer'}")
    elif found.first is None:
        lines.append("no difference beyond tolerance, in one prefill and on a past")
    return lines


def print_against(
    artifact: Path, runtime: Any, config: ValidateConfig, precision: Any, python: Path | None, *, json_wanted: bool
) -> None:
    """Print how another runtime compares.

    Raises:
        ParityError: it differs, or fails.
    """
    from deploykit.artifact import Artifact
    from deploykit.validate.against import against

    with console.progress() as progress:
        found = against(Artifact.open(artifact), runtime, config, precision=precision, python=python, progress=progress)
    if json_wanted:
        console.print_json(found.to_json())
    else:
        click.echo("\n".join(_against_lines(found)))


def _against_lines(found: "Compared") -> list[str]:
    below = f" on ONNX Runtime {found.onnxruntime}" if found.onnxruntime else ""
    width = max(map(len, found.cases))
    return [
        f"{found.precision} in {found.runtime}{below}",
        *(
            f"{name:<{width}}  max error {case['max_abs_error']:.1e}, allowed {case['allowed']:.1e}; "
            f"{case['equal']:.1%} of {case['tokens']} tokens equal"
            for name, case in found.cases.items()
        ),
    ]
