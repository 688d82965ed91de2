"""Which family describes which encoder-decoder, and the two graphs of one."""

from collections.abc import Callable
from typing import Any, Final

import onnx_ir as ir

import deploykit.convert.seq2seq.bart as bart
import deploykit.convert.seq2seq.own as own
import deploykit.convert.seq2seq.t5 as t5
from deploykit.convert.builder import DecoderGraph, Graph
from deploykit.convert.checkpoint import Checkpoint
from deploykit.convert.description import Unfit
from deploykit.convert.fields import Fields
from deploykit.convert.seq2seq.decoder import DecoderWriter
from deploykit.convert.seq2seq.description import EncoderDecoder
from deploykit.convert.seq2seq.encoder import EncoderWriter
from deploykit.convert.sidecars import special_ids
from deploykit.convert.weights import read_json
from deploykit.errors import CheckpointError, ConfigError, UnsupportedModelError
from deploykit.spec import DecoderSpec, EncoderSpec, LayerCache

FAMILIES: Final[dict[str, Callable[[Fields], EncoderDecoder]]] = {
    "bart": bart.bart,
    "deploykit_transformer": own.own,
    "m2m_100": bart.m2m_100,
    "marian": bart.marian,
    "mbart": bart.mbart,
    "mt5": t5.mt5,
    "pegasus": bart.pegasus,
    "t5": t5.t5,
    "umt5": t5.umt5,
}
"""Model type → the function that describes its two stacks."""
_HOME: Final = ("transformers.", "deploykit.transformer.")
_RELATIVE: Final = 512
"""Longest source and answer of a model without a limit of its own, unless another is asked for: what T5 was trained
with (Raffel et al. 2020, section 3.1.1)."""
_LONGEST: Final = 1 << 24


def describe(source: Checkpoint) -> EncoderDecoder:
    """Return what a checkpoint's encoder and decoder look like.

    Raises:
        UnsupportedModelError: there are no graphs for it.
    """
    try:
        return _describe(source.config)
    except Unfit as unfit:
        raise UnsupportedModelError(
            f"{source.folder}: no graphs, since {unfit}; encoder-decoders are never traced"
        ) from None


def _describe(config: Any) -> EncoderDecoder:
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise Unfit(f"model type {config.model_type!r} is not among {', '.join(FAMILIES)}")
    if not type(config).__module__.startswith(_HOME):
        raise Unfit("its code comes with the checkpoint, and may differ from what transformers has of that name")
    fields = Fields(config)
    try:
        described = family(fields)
    except (AttributeError, LookupError, TypeError, ZeroDivisionError) as error:
        raise Unfit(f"its configuration can't be understood ({type(error).__name__}: {error})") from error
    if (unknown := fields.unread()) is not None:
        raise Unfit(f"{unknown} is not known to the graphs of {config.model_type}")
    return described


def contract(source: Checkpoint, model: EncoderDecoder, wanted: int | None) -> DecoderSpec:
    """Return what the two graphs take and give.

    Args:
        source: the checkpoint.
        model: what it looks like.
        wanted: longest source and answer asked for, in tokens, if any.

    Raises:
        ConfigError: `wanted` is longer than what the checkpoint was made for.
        CheckpointError: its special tokens can't be.
    """
    longest, decoder = _longest(source, model, wanted), model.decoder
    layer = LayerCache(heads=decoder.heads, key_dim=decoder.head_size, value_dim=decoder.head_size)
    return DecoderSpec(
        cache="concatenated",
        layers=(layer,) * decoder.layers,
        vocab_size=decoder.vocabulary,
        max_context=longest,
        logits_to_keep=False,
        encoder=EncoderSpec(width=model.width, max_source=longest, decoder_prompt=_prompt(source, decoder.vocabulary)),
        **special_ids(source),
    )


def build(source: Checkpoint, model: EncoderDecoder, spec: DecoderSpec, *, opset: int) -> tuple[ir.Model, ir.Model]:
    """Return the decoder's graph and the encoder's; their weights are read from the checkpoint when they are saved.

    Raises:
        CheckpointError: a tensor is missing or has another shape than config.json implies.
    """
    assert spec.encoder is not None
    decoder = DecoderGraph(spec, opset=opset)
    DecoderWriter(decoder, model, source.weights, longest=spec.max_context).write()
    encoder = Graph(spec.encoder.inputs(), spec.encoder.outputs(), opset=opset, name="encoder")
    EncoderWriter(encoder, model, source.weights, longest=spec.encoder.max_source).write()
    return decoder.model(), encoder.model()


def _longest(source: Checkpoint, model: EncoderDecoder, wanted: int | None) -> int:
    if model.longest is not None:
        return source.max_context(wanted)
    named = getattr(source.config, "n_positions", None)
    longest = wanted or (named if isinstance(named, int) and named > 1 else _RELATIVE)
    if longest > _LONGEST:
        raise ConfigError(f"a context of {longest} tokens is too long; pass --max-context {_LONGEST} or less")
    return longest


def _prompt(source: Checkpoint, vocabulary: int) -> tuple[int, ...]:
    """Return the tokens that every answer begins with, as transformers' `generate` finds them."""
    file = source.folder / "generation_config.json"
    # Where there is such a file, what config.json says besides counts for nothing but the start.
    generation = read_json(file) if file.is_file() else source.raw_config
    known = [generation, source.raw_config, source.config.to_dict()]
    names = ("decoder_start_token_id", "bos_token_id")
    start = next((place[name] for name in names for place in known if place.get(name) is not None), None)
    forced = generation.get("forced_bos_token_id")
    if start is None:
        raise CheckpointError(
            f"{source.folder}: neither config.json nor generation_config.json has a decoder_start_token_id, the token "
            "that answers begin with; add it"
        )
    prompt = (start,) if forced is None else (start, forced)
    for token in prompt:
        if not isinstance(token, int) or not 0 <= token < vocabulary:
            raise CheckpointError(
                f"{source.folder}: answers would begin with token {token!r}, but the vocabulary ends at "
                f"{vocabulary - 1}; correct decoder_start_token_id and forced_bos_token_id"
            )
    return prompt
