"""The stage itself: a checkpoint in, an fp32 artifact out."""

import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from deploykit import graph
from deploykit.artifact import Artifact, Manifest, StageRecord
from deploykit.config import ConvertConfig
from deploykit.convert.builder import StreamedTensor
from deploykit.convert.checkpoint import Checkpoint, is_encoder_decoder, open_checkpoint
from deploykit.convert.fused import build_fused, fused_layers, fused_stretch, why_not_fused
from deploykit.convert.seq2seq.families import build, contract, describe
from deploykit.convert.sidecars import check_chat_templates, special_ids, write_sidecars
from deploykit.draft import Draft, check_target, draft
from deploykit.errors import UnsupportedModelError
from deploykit.progress import Progress, of_part, silent
from deploykit.spec import TASK_GENERATION, TASK_TEXT2TEXT, DecoderSpec, graph_files, graph_parts

_TOOLS: Final = ("onnx", "onnx-ir", "torch", "transformers")


def convert(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: ConvertConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Return the artifact at `out`: the checkpoint's decoder as an fp32 ONNX graph with a key/value cache.

    An encoder-decoder becomes two graphs: of its encoder, and of its decoder with a cache of both.

    Args:
        checkpoint: a Hugging Face folder, or a hub id.
        out: the new artifact's folder.
        config: which way to take, and how to read the checkpoint.
        overwrite: whether an artifact at `out` may be replaced.
        progress: told how much is written.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or unsafe to read, or a chat template of it is broken.
        UnsupportedModelError: its model can't be converted, or not by the method asked for.
        OutputError: `out` exists, or can't be written.
    """
    config = config or ConvertConfig()
    started = time.perf_counter()
    check_target(Path(out), overwrite=overwrite)
    progress("reading the checkpoint", 0, 1)
    source = open_checkpoint(checkpoint if isinstance(checkpoint, str) else Path(checkpoint), config)
    progress("reading the checkpoint", 1, 1)
    pair = is_encoder_decoder(source.config)
    reason = None if pair else _why_traced(source, config)
    check_chat_templates(source, progress)
    with draft(out, overwrite=overwrite) as sheet:
        if pair:
            models, spec = _write_pair(source, config)
        else:
            model, spec = _trace(source, config, progress) if reason else _fuse(source, config)
            models = (model,)
        for file, part, written in zip(graph_files("fp32", spec), graph_parts(spec), models, strict=True):
            _save(written, sheet, file, of_part(progress, part))
        local = Path(checkpoint).expanduser() == source.folder
        write_sidecars(sheet, source, spec, hub_id=None if local else str(checkpoint))
        record = StageRecord(
            stage="convert",
            options=_options(config),
            versions={name: version(name) for name in _TOOLS},
            result={
                "method": "traced" if reason else "fused",
                "why_not_fused": reason,
                "seconds": round(time.perf_counter() - started, 3),
            },
        )
        return sheet.commit(
            Manifest(
                task=TASK_TEXT2TEXT if pair else TASK_GENERATION,
                architecture=source.architecture,
                model_type=source.config.model_type,
                decoder=spec,
                served="fp32",
                history=(record,),
            )
        )


def _why_traced(source: Checkpoint, config: ConvertConfig) -> str | None:
    """Return what keeps a decoder from a fused graph, or None where it gets one."""
    reason = "the method was chosen" if config.method == "traced" else why_not_fused(source.config)
    if reason and config.method == "fused":
        raise UnsupportedModelError(f"{source.folder}: no fused graph, since {reason}; use --method auto or traced")
    return reason


def _write_pair(source: Checkpoint, config: ConvertConfig) -> tuple[tuple[ir.Model, ...], DecoderSpec]:
    """Return an encoder-decoder's graphs in the order of its files."""
    if config.method == "traced":
        raise UnsupportedModelError(f"{source.folder}: encoder-decoders are never traced; use --method auto or fused")
    model = describe(source)
    spec = contract(source, model, config.max_context)
    return build(source, model, spec, opset=config.opset), spec


def _fuse(source: Checkpoint, config: ConvertConfig) -> tuple[ir.Model, DecoderSpec]:
    spec = DecoderSpec(
        cache="shared",
        layers=fused_layers(source.config),
        vocab_size=source.config.vocab_size,
        max_context=source.max_context(config.max_context, stretch=fused_stretch(source.config)),
        logits_to_keep=True,
        **special_ids(source),
    )
    return build_fused(source, spec, opset=config.opset), spec


def _trace(source: Checkpoint, config: ConvertConfig, progress: Progress) -> tuple[ir.Model, DecoderSpec]:
    from deploykit.convert.trace import trace

    return trace(source, config, progress=progress)


def _save(model: ir.Model, sheet: Draft, file: str, progress: Progress) -> None:
    """Write a graph and its weights, telling how many megabytes are done."""
    weights = [value.const_value for value in model.graph.initializers.values()]
    # Smaller ones lie in the graph file.
    tensors = [t for t in weights if isinstance(t, StreamedTensor) and t.nbytes >= graph.INLINE_BYTES]
    total, done = sum(tensor.nbytes for tensor in tensors) / 1e6, 0.0

    def written(size: int) -> None:
        nonlocal done
        done += size / 1e6
        if done < total:
            progress("writing weights", done, total)

    for tensor in tensors:
        tensor.on_write = written
    graph.save(model, sheet.file(file))
    if tensors:
        # Only here, since the sum of the blocks may miss the total by a rounding.
        progress("writing weights", total, total)


def _options(config: ConvertConfig) -> dict[str, Any]:
    """Return what was asked for and changes the result; no path of this machine."""
    names = ("method", "opset", "max_context", "revision", "trust_remote_code", "allow_pickle")
    return {name: getattr(config, name) for name in names}
