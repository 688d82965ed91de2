"""`quantize`: a model with fewer bits beside the fp32 one, and made the one that is served."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from deploykit.artifact import Artifact, StageRecord
from deploykit.config import QuantizeConfig
from deploykit.draft import Draft, draft
from deploykit.errors import ArtifactError, ConfigError
from deploykit.progress import Progress, silent
from deploykit.quantize.write import check_pair, write_graphs
from deploykit.spec import HALF, REPORTS, VARIANT_FILES, Precision, data_file, graph_files

__all__ = ["quantize"]

WEIGHT_ONLY: Final = ("int8", "int4", "int4-fp16")


def quantize(
    source: Artifact | str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: QuantizeConfig | None = None,
    *,
    overwrite: bool = False,
    link: bool = False,
    notes: Mapping[str, Any] | None = None,
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
        notes: what the record is to hold besides, such as why this precision was chosen.
        progress: told which weight is being packed.

    Raises:
        ArtifactError: `source` is no sound artifact, holds no fp32 graph, or a weight holds NaN or Inf.
        ConfigError: the precision is `auto`, or one that an encoder-decoder can't have; no weight is named in
            `more_bits`, or the calibration text can't be read.
        OutputError: `out` exists, or can't be written.
    """
    config = config or QuantizeConfig()
    if config.precision == "auto":
        raise ConfigError("quantize auto measures whole models, which this stage alone can't; use deploykit export")
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    artifact.graph("fp32")  # refuses one without it before any work is done
    check_pair(artifact, config)
    precision: Precision = "fp32" if config.precision == "none" else config.precision
    with draft(out, overwrite=overwrite) as sheet:
        result: dict[str, Any] = {}
        written: set[str] = set()
        parity = dict(artifact.manifest.parity)
        if precision != "fp32":
            start = time.perf_counter()
            names = graph_files(precision, artifact.manifest.decoder)
            result = write_graphs(artifact, [sheet.file(name) for name in names], precision, config, progress=progress)
            result["seconds"] = round(time.perf_counter() - start, 3)
            written = {*names, *map(data_file, names), *_announce(artifact, sheet, precision)}
            # What was found for an earlier model of this precision doesn't hold for the new one.
            parity.pop(precision, None)
        sheet.carry(artifact, [name for name in artifact.manifest.files if name not in written | REPORTS], link=link)
        record = StageRecord(
            stage="quantize",
            options=_options(config),
            versions={name: version(name) for name in ("numpy", "onnx-ir", "onnxruntime")},
            result={**result, **(notes or {})},
        )
        manifest = replace(
            artifact.manifest, served=precision, parity=parity, history=(*artifact.manifest.history, record)
        )
        return sheet.commit(manifest)


def _announce(artifact: Artifact, sheet: Draft, precision: Precision) -> set[str]:
    """Tell transformers.js, in `config.json`, what it can't see in the new graph; return the files written.

    It asks for each graph whether there is a data file, and for each precision, by the end of its file's name, of what
    type the cache is: float32 where it is told nothing.
    """
    if "config.json" not in artifact.manifest.files:
        return set()
    file = artifact.path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        told = config.setdefault("transformers.js_config", {})
        for name in graph_files(precision, artifact.manifest.decoder):
            data = sheet.path / data_file(name)
            told.setdefault("use_external_data_format", {})[Path(name).name] = int(data.exists())
        if precision in HALF:
            ending = Path(VARIANT_FILES[precision]).stem.removeprefix("model_")
            told.setdefault("kv_cache_dtype", {})[ending] = "float16"
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{file}: can't be read as a model's configuration: {error}; export again") from error
    sheet.write_json("config.json", config)
    return {"config.json"}


def _options(config: QuantizeConfig) -> dict[str, Any]:
    """Return what bears on the precision, without what was left as it is by default."""
    options: dict[str, Any] = {"precision": config.precision}
    if config.precision in WEIGHT_ONLY:
        options |= {"block_size": config.block_size, "rounding": config.rounding, "symmetric": config.symmetric}
        if config.precision != "int8":
            options["head_bits"] = config.head_bits
            options |= {"table_bits": config.table_bits} if config.table_bits else {}
            options |= {"more_bits": list(config.more_bits)} if config.more_bits else {}
            options |= {"sensitive": config.sensitive} if config.sensitive else {}
    return options
