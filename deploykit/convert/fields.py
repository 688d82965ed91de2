"""A model's configuration, read field by field, and what many families read the same way."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import deploykit.convert.rotary as rotary
from deploykit.convert.description import Decoder, Layer, Norm, Unfit
from deploykit.convert.rotary import Rotary

HARMLESS: Final = {
    *("attention_dropout", "attn_pdrop", "classifier_dropout", "embd_pdrop", "hidden_dropout", "resid_pdrop"),
    *("activation_dropout", "dropout", "dropout_rate", "decoder_layerdrop", "encoder_layerdrop"),
    *("bos_token_id", "eod_token_id", "eos_token_id", "pad_token_id"),
    *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
    *("init_std", "initializer_factor", "initializer_range", "is_decoder", "pretraining_tp", "use_cache"),
    *("attention_softmax_in_fp32", "reorder_and_upcast_attn", "scale_attention_softmax_in_fp32"),
    *("max_position_embeddings", "original_max_position_embeddings"),
    *("max_window_layers", "no_rope_layer_interval", "use_sliding_window"),
    *("sliding_window_pattern", "_sliding_window_pattern"),
}
"""Fields that change nothing of a graph for inference, or only the defaults of fields that are read."""


class Fields:
    """A transformers configuration that remembers what of it was read.

    So a field that a family doesn't know, of this version of transformers or a later one, is never ignored.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self._read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        """Return the configuration's field `name`."""
        self._read.add(name)
        return getattr(self.config, name)

    def unread(self) -> str | None:
        """Return a field that nobody has read and that isn't at its default, as `name = value`, or None."""
        from transformers import PreTrainedConfig

        usual = type(self.config)().to_dict()
        for name in sorted(set(usual) - set(PreTrainedConfig().to_dict()) - HARMLESS - self._read):
            if (value := getattr(self.config, name, None)) != usual[name]:
                return f"{name} = {value!r}"
        return None


def decoder(config: Fields, **changes: Any) -> Decoder:
    """Return a decoder of Llama's shape, but for `changes`, which are fields of `Decoder`.

    What is among the changes isn't read from the configuration, which may not have it.
    """
    fields: dict[str, Callable[[], Any]] = {
        "vocabulary": lambda: config.vocab_size,
        "width": lambda: config.hidden_size,
        "inner": lambda: config.intermediate_size,
        "heads": lambda: config.num_attention_heads,
        "shared_heads": lambda: _shared_heads(config),
        "head_size": lambda: head_size(config),
        "layers": lambda: layers(config),
        "norm": lambda: Norm(epsilon=config.rms_norm_eps),
        "activation": lambda: config.hidden_act,
        "tied": lambda: config.tie_word_embeddings,
    }
    return Decoder(**{name: read() for name, read in fields.items() if name not in changes}, **changes)


def _shared_heads(config: Fields) -> int:
    """Return the number of key/value heads; configurations from before they were shared don't name it."""
    shared: int | None = getattr(config, "num_key_value_heads", None)
    return int(config.num_attention_heads if shared is None else shared)


def head_size(config: Fields) -> int:
    """Return D."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def layers(
    config: Fields,
    *,
    scale: float | None = None,
    turning: Sequence[Rotary | None] | None = None,
    windows: Sequence[int | None] | None = None,
) -> tuple[Layer, ...]:
    """Return the layers of a model that differ in their rotary embedding and window at most.

    Args:
        config: the model's.
        scale: factor of query times key; 1 / sqrt(D) where None.
        turning: each layer's rotary embedding; the model's one for all where None.
        windows: how many tokens each layer sees; all where None.
    """
    count = config.num_hidden_layers
    turning = [rotary_of(config)] * count if turning is None else turning
    windows = [None] * count if windows is None else windows
    factor = float(head_size(config) ** -0.5 if scale is None else scale)
    return tuple(
        Layer(scale=factor, rotary=rotary, window=window) for rotary, window in zip(turning, windows, strict=True)
    )


def same_window(config: Fields) -> list[int | None]:
    """Return the windows of a model whose layers all have the same."""
    if config.sliding_window is not None and config.sliding_window < 1:
        # Kernels take it for no window at all, PyTorch for one in which no token sees any.
        raise Unfit(f"sliding_window is {config.sliding_window!r}")
    return [config.sliding_window] * config.num_hidden_layers


def windows_by_type(config: Fields) -> list[int | None]:
    """Return the windows of a model that says of each layer whether it has one."""
    kinds = {"full_attention": None, "sliding_attention": config.sliding_window}
    if unknown := sorted(set(config.layer_types) - set(kinds)):
        raise Unfit(f"a layer's type is {unknown[0]!r}")
    if "sliding_attention" in config.layer_types and not config.sliding_window:
        raise Unfit(f"some layers see a sliding window, but sliding_window is {config.sliding_window!r}")
    return [kinds[kind] for kind in config.layer_types]


def rotary_of(
    config: Fields,
    layer_type: str | None = None,
    *,
    partial: bool = False,
    interleaved: bool = False,
    backwards: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> Rotary:
    """Return a model's rotary embedding, or that of its layers of one type.

    Args:
        config: the model's.
        layer_type: whose parameters to take, where layers have their own.
        partial: whether the family knows heads of which only a part is rotated.
        interleaved: whether neighbours are turned together.
        backwards: whether it turns the other way.
        parameters: in place of the configuration's.

    Raises:
        Unfit: it is of a kind that is not known here.
    """
    if parameters is None:
        parameters = config.rope_parameters if layer_type is None else config.rope_parameters[layer_type]
    kind, part = parameters.get("rope_type"), parameters.get("partial_rotary_factor", 1.0)
    size = int(head_size(config) * part)
    if unknown := sorted(set(parameters) - rotary.PARAMETERS):
        raise Unfit(f"its rotary embedding has {unknown[0]} = {parameters[unknown[0]]!r}")
    if kind != "default" and kind not in rotary.SCALED:
        raise Unfit(f"rotary type {kind!r} has no fused form")
    if size % 2 or (part != 1.0 and not partial):
        raise Unfit(f"{size} of {head_size(config)} elements of each head are rotated")
    limits = {"dynamic": config.max_position_embeddings, "longrope": parameters.get("original_max_position_embeddings")}
    plain = kind == "default"
    return Rotary(
        name="rotary" if layer_type is None else f"rotary.{layer_type}",
        kind=kind,
        parameters=parameters,
        frequencies=rotary.plain(parameters["rope_theta"], size)
        if plain
        else rotary.scaled(config.config, kind, layer_type),
        size=size,
        fixed_until=limits.get(kind),
        interleaved=interleaved,
        backwards=backwards,
    )
