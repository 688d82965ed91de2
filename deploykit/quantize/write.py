"""The graphs of a precision: a decoder's one, or a decoder's and its encoder's, each rounded by itself."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from deploykit import graph as graphs
from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.errors import ArtifactError, ConfigError
from deploykit.progress import Progress, of_part
from deploykit.quantize.dynamic import quantize_activations
from deploykit.quantize.half import halve, halve_quantized
from deploykit.quantize.plan import named
from deploykit.quantize.products import find_products
from deploykit.quantize.weight_only import quantize_weights
from deploykit.spec import HALF, Precision, data_file, graph_parts

_COUNTED: Final = ("bytes_before", "bytes_after", "products", "embeddings")


def check_pair(artifact: Artifact, config: QuantizeConfig) -> None:
    """Say before the work what an encoder-decoder can't be quantized to yet.

    Raises:
        ConfigError: fp16, whose conversion knows decoders only, or a rounding that calibrates on running text.
    """
    if artifact.manifest.decoder.encoder is None:
        return
    if config.precision in HALF:
        raise ConfigError(
            f"quantize {config.precision}: an encoder-decoder has no half precision yet; use int8, int4 or dynamic-int8"
        )
    if config.rounding == "gptq" or config.sensitive:
        what = "rounding gptq" if config.rounding == "gptq" else f"sensitive {config.sensitive:g}"
        raise ConfigError(
            f"{what} calibrates on running text, which an encoder-decoder doesn't read; use --rounding hqq, or "
            "--more-bits for weights that are to keep 8 bits"
        )


def write_graphs(
    artifact: Artifact, targets: Sequence[Path], precision: Precision, config: QuantizeConfig, *, progress: Progress
) -> dict[str, Any]:
    """Write a precision's graphs to `targets`, in the artifact's order, and return the figures of the record.

    Counts are those of all graphs together; the encoder's weights have `encoder/` before their names.

    Raises:
        ArtifactError: a weight holds NaN or Inf, there is nothing to quantize, or a file can't be read.
        ConfigError: no weight has a name that `config` asks for, or the calibration text can't be read.
    """
    sources = artifact.graphs("fp32")
    figures = [
        _write(artifact, source, target, precision, own, of_part(progress, part))
        for source, target, own, part in zip(
            sources, targets, _configs(sources, config), graph_parts(artifact.manifest.decoder), strict=True
        )
    ]
    return figures[0] if len(figures) == 1 else _together(*figures)


def _write(
    artifact: Artifact, source: Path, target: Path, precision: Precision, config: QuantizeConfig, progress: Progress
) -> dict[str, Any]:
    """Write one quantized graph and return its figures."""
    if precision == "dynamic-int8":
        figures = quantize_activations(source, target, progress=progress)
    elif precision == "fp16":
        figures = halve(source, target, progress=progress)
    elif precision == "int4-fp16":
        figures = halve_quantized(
            lambda file: quantize_weights(artifact, source, file, config, progress=progress), target, progress=progress
        )
    else:
        figures = quantize_weights(artifact, source, target, config, progress=progress)
    if not figures["products"]:
        raise ArtifactError(
            f"{source}: no product with constant weights in it, so {precision} changes nothing; use none"
        )
    return {"bytes_before": _size(source), "bytes_after": _size(target), **figures}


def _configs(sources: Sequence[Path], config: QuantizeConfig) -> list[QuantizeConfig]:
    """Return the options of each graph: parts of names that only the other one has are left out.

    Raises:
        ConfigError: a part is in no graph's names.
    """
    if len(sources) == 1 or not config.more_bits:
        return [config] * len(sources)
    names = [[str(p.weight.name) for p in find_products(graphs.load(file).graph)[0]] for file in sources]
    named([name for part in names for name in part], config.more_bits)
    return [replace(config, more_bits=tuple(p for p in config.more_bits if _has(own, p))) for own in names]


def _has(names: Sequence[str], part: str) -> bool:
    try:
        return bool(named(names, [part]))
    except ConfigError:
        return False


def _together(decoder: Mapping[str, Any], encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a pair of graphs as those of one."""
    both = {name: decoder[name] + encoder[name] for name in _COUNTED}
    both["products_left"] = dict(Counter(decoder["products_left"]) + Counter(encoder["products_left"]))
    if "weights" in decoder:
        both["bits"] = dict(sorted((Counter(decoder["bits"]) + Counter(encoder["bits"])).items()))
        both["weights"] = {
            **decoder["weights"],
            **{f"encoder/{name}": entry for name, entry in encoder["weights"].items()},
        }
    return both


def _size(file: Path) -> int:
    """Return the bytes of a graph file and its data file together."""
    data = file.with_name(data_file(file.name))
    return file.stat().st_size + (data.stat().st_size if data.exists() else 0)
