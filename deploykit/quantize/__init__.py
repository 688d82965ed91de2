"""`quantize`: a model with fewer bits beside the fp32 one, and made the one that is served."""

import json
import os
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploykit.artifact import Artifact, Draft, StageRecord, draft
from deploykit.config import QuantizeConfig
from deploykit.errors import ArtifactError
from deploykit.progress import Progress, silent
from deploykit.quantize.blocks import Bits
from deploykit.quantize.weight_only import quantize_weights
from deploykit.spec import VARIANT_FILES, Precision, data_file

__all__ = ["quantize"]


def quantize(
    source: Artifact | str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: QuantizeConfig | None = None,
    *,
    overwrite: bool = False,
    link: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Return the artifact at `out`: `source` with a model of the wanted precision, which is then the served one.

    The fp32 model stays; `none` adds no model and makes fp32 the served one.

    Args:
        source: an artifact, or the path of one, which is then verified.
        out: the new artifact's folder.
        config: the precision and its options.
        overwrite: whether an artifact at `out` may be replaced.
        link: whether unchanged files may be hard links: only where `source` is removed afterwards.
        progress: told which weight is being packed.

    Raises:
        ArtifactError: `source` is no sound artifact, holds no fp32 graph, or a weight holds NaN or Inf.
        OutputError: `out` exists, or can't be written.
    """
    config = config or QuantizeConfig()
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    file = artifact.graph("fp32")
    precision: Precision = "fp32" if config.precision == "none" else config.precision
    with draft(out, overwrite=overwrite) as sheet:
        result: dict[str, Any] = {}
        written: set[str] = set()
        parity = dict(artifact.manifest.parity)
        if precision != "fp32":
            start = time.perf_counter()
            result = _write(file, sheet.file(VARIANT_FILES[precision]), precision, config, progress)
            result["seconds"] = round(time.perf_counter() - start, 3)
            written = {VARIANT_FILES[precision], data_file(VARIANT_FILES[precision])}
            written |= _announce(artifact, sheet, VARIANT_FILES[precision])
            # What was found for an earlier model of this precision doesn't hold for the new one.
            parity.pop(precision, None)
        sheet.carry(artifact, [name for name in artifact.manifest.files if name not in written], link=link)
        record = StageRecord(
            stage="quantize",
            options=_options(config),
            versions={name: version(name) for name in ("numpy", "onnx-ir", "onnxruntime")},
            result=result,
        )
        manifest = replace(
            artifact.manifest, served=precision, parity=parity, history=(*artifact.manifest.history, record)
        )
        return sheet.commit(manifest)


def _write(
    source: Path, target: Path, precision: Precision, config: QuantizeConfig, progress: Progress
) -> dict[str, Any]:
    """Write the quantized graph and return the figures of the record."""
    if precision == "dynamic-int8":
        # Loads all of onnxruntime.quantization, which nothing else needs.
        from deploykit.quantize.dynamic import quantize_activations

        figures = quantize_activations(source, target, progress=progress)
    else:
        bits: Bits = 8 if precision == "int8" else 4
        head_bits: Bits = 8 if precision == "int8" else config.head_bits
        figures = quantize_weights(source, target, bits, config.block_size, head_bits=head_bits, progress=progress)
    if not figures["products"]:
        raise ArtifactError(
            f"{source}: no product with constant weights in it, so {precision} changes nothing; use none"
        )
    return {"bytes_before": _size(source), "bytes_after": _size(target), **figures}


def _size(file: Path) -> int:
    """Return the bytes of a graph file and its data file together."""
    data = file.with_name(data_file(file.name))
    return file.stat().st_size + (data.stat().st_size if data.exists() else 0)


def _announce(artifact: Artifact, sheet: Draft, name: str) -> set[str]:
    """Tell transformers.js, in `config.json`, whether the new graph has a data file; return the files written."""
    if "config.json" not in artifact.manifest.files:
        return set()
    file = artifact.path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        files = config.setdefault("transformers.js_config", {}).setdefault("use_external_data_format", {})
        files[Path(name).name] = int((sheet.path / data_file(name)).exists())
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{file}: can't be read as a model's configuration: {error}; export again") from error
    sheet.write_json("config.json", config)
    return {"config.json"}


def _options(config: QuantizeConfig) -> dict[str, Any]:
    if config.precision == "int8":
        return {"precision": config.precision, "block_size": config.block_size}
    if config.precision == "int4":
        return {"precision": config.precision, "block_size": config.block_size, "head_bits": config.head_bits}
    return {"precision": config.precision}
