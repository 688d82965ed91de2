"""Traced graphs: any causal language model of transformers, through PyTorch's exporter."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir
import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from deploykit.config import ConvertConfig
from deploykit.convert.builder import IR_VERSION
from deploykit.convert.checkpoint import Checkpoint
from deploykit.convert.flat import FlatDecoder, kept_besides
from deploykit.convert.frequencies import hold_frequencies
from deploykit.convert.reference import load_model
from deploykit.convert.rows import keep_last_rows
from deploykit.convert.sidecars import special_ids
from deploykit.convert.spelling import translations
from deploykit.errors import ConfigError, UnsupportedModelError
from deploykit.progress import Progress
from deploykit.quiet import quiet
from deploykit.spec import BATCH, PAST, DecoderSpec, LayerCache

_BATCH, _NEW, _PAST = 2, 3, 5
"""Sizes of the example. The exporter takes 0 and 1 for constants, and equal sizes for one axis."""


def trace(source: Checkpoint, config: ConvertConfig, *, progress: Progress) -> tuple[ir.Model, DecoderSpec]:
    """Return the traced graph and its contract; its weights are those of the PyTorch model, in memory.

    Raises:
        CheckpointError: the weights don't fit the model, or aren't finite.
        UnsupportedModelError: the model keeps something else than keys and values, or can't be exported.
    """
    _check_state(source)
    progress("tracing", 0, 3, "loading PyTorch's model")
    model = load_model(source, config)
    progress("tracing", 1, 3, "running it once")
    longest = hold_frequencies(model)
    decoder = FlatDecoder(model)
    layers = _layers(source, decoder)
    _settle(source, decoder)
    spec = DecoderSpec(
        cache="concatenated",
        layers=layers,
        vocab_size=source.config.vocab_size,
        max_context=_max_context(source, decoder, config.max_context, longest),
        logits_to_keep=False,
        **special_ids(source),
    )
    progress("tracing", 2, 3, "exporting")
    graph = _export(source, decoder, spec, opset=config.opset)
    if keep_last_rows(graph.graph):
        spec = replace(spec, logits_to_keep=True)
    progress("tracing", 3, 3)
    return _declare(graph, spec), spec


def _check_state(source: Checkpoint) -> None:
    """Check, before the weights are loaded, that keys and values are all that the model keeps.

    Raises:
        UnsupportedModelError: saying what it keeps besides.
    """
    try:
        kept = kept_besides(source.config)
    except Exception as error:  # a configuration can name layers that transformers has no cache for
        raise _unsupported(source, f"transformers has no cache for it: {_reason(error)}") from error
    if kept:
        raise _unsupported(source, f"it keeps {kept} from token to token, and only keys and values are supported")


def _layers(source: Checkpoint, decoder: FlatDecoder) -> tuple[LayerCache, ...]:
    """Return what each layer keeps of a token, read from the cache of one small forward."""
    try:
        with torch.inference_mode(), _silence():
            output = decoder.first_run(torch.zeros((_BATCH, _NEW), dtype=torch.int64))
    except Exception as error:  # whatever a model may raise
        raise _unsupported(source, f"one small forward with a cache fails: {_reason(error)}") from error
    for tensor in output[1:]:
        if tensor.dim() != 4 or tensor.shape[0] != _BATCH or tensor.shape[2] != _NEW:
            raise _unsupported(
                source, f"its cache has the shape {list(tensor.shape)}, not [batch, heads, tokens, size]"
            )
    return tuple(
        LayerCache(heads=key.shape[1], key_dim=key.shape[3], value_dim=value.shape[3])
        for key, value in zip(output[1::2], output[2::2], strict=True)
    )


def _settle(source: Checkpoint, decoder: FlatDecoder) -> None:
    """Check, before the long export, that keys, values and mask are all the model needs.

    Raises:
        UnsupportedModelError: saying what it needs besides.
    """
    try:
        with torch.inference_mode(), _silence():
            reason = decoder.settle(source.config.vocab_size)
    except Exception as error:  # whatever a model may raise
        raise _unsupported(source, f"a step on a past of keys and values fails: {_reason(error)}") from error
    if reason is not None:
        raise _unsupported(source, reason)


def _max_context(source: Checkpoint, decoder: FlatDecoder, wanted: int | None, longest: int | None) -> int:
    """Return the longest sequence, without the positions that come before a row's first token.

    Args:
        source: the checkpoint.
        decoder: its model.
        wanted: what was asked for, if anything was.
        longest: for how many tokens the model's rotary frequencies hold; for all where None.

    Raises:
        ConfigError: `wanted` is longer than that, or no limit is known.
    """
    context = source.max_context(wanted)
    if longest is not None and wanted is not None and wanted > longest:
        raise ConfigError(
            f"max_context {wanted} exceeds the {longest} tokens after which this checkpoint's rotary frequencies go by "
            f"the length of the row, which a traced graph can't follow; pass --max-context {longest} or less"
        )
    limit = context if longest is None else min(context, longest)
    if not decoder.first_position:
        return limit
    positions = source.max_context(None) - decoder.first_position
    if wanted is not None and wanted > positions:
        raise ConfigError(
            f"max_context {wanted} exceeds the {positions} positions of this checkpoint; "
            f"pass --max-context {positions} or less"
        )
    return min(limit, positions)


def _export(source: Checkpoint, decoder: FlatDecoder, spec: DecoderSpec, *, opset: int) -> ir.Model:
    """Return the graph of `decoder`, its inputs and outputs named as in `spec`."""
    sizes: dict[str | int, int] = {BATCH: _BATCH, PAST: _PAST}
    past = [torch.zeros([sizes.get(axis) or int(axis) for axis in tensor.shape]) for tensor in spec.past()]
    example = (
        torch.zeros((_BATCH, _NEW), dtype=torch.int64),
        torch.ones((_BATCH, _PAST + _NEW), dtype=torch.int64),
        past,
    )
    free = torch.export.Dim.DYNAMIC
    try:
        with torch.inference_mode(), _silence():
            program = torch.onnx.export(
                decoder,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs()],
                output_names=[tensor.name for tensor in spec.outputs()],
                dynamic_shapes=({0: free, 1: free}, {0: free, 1: free}, [{0: free, 2: free} for _ in past]),
                custom_translation_table=translations(),
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever the model's own code raises
        raise _unsupported(source, f"torch.onnx.export fails: {_reason(error)}") from error
    assert program is not None
    for value, tensor in zip(program.model.graph.outputs, spec.outputs(), strict=True):
        value.name = tensor.name
    return program.model


def _declare(model: ir.Model, spec: DecoderSpec) -> ir.Model:
    """Return the model with the axes named as in `spec`, and without the exporter's notes, which hold local paths."""
    values = [*model.graph.inputs, *model.graph.outputs]
    for value, tensor in zip(values, [*spec.inputs(), *spec.outputs()], strict=True):
        value.name, value.shape = tensor.name, ir.Shape(tensor.shape)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for part in (model, model.graph):
        part.metadata_props.clear()
        part.doc_string = None
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "deploykit", None
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's prints, warnings and logs off the terminal for a while."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            quiet(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _unsupported(source: Checkpoint, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{source.folder}: {source.config.model_type} can't be traced: {why}; docs/models.md lists what can be"
    )


def _reason(error: BaseException) -> str:
    """Return the failure that began it all, as one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, GuardOnDataDependentSymNode):
        return "its code goes another way for other values in its tensors, such as a row's length or the experts chosen"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}" if lines else type(error).__name__
