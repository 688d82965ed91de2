"""The model in Hugging Face's layout: config.json and model.safetensors, opened by transformers' Auto classes."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from deploykit.transformer.model import Transformer, initialize

MODEL_TYPE = "deploykit_transformer"


class TransformerConfig(PretrainedConfig):  # type: ignore[misc] # transformers carries no types here
    """The fields of config.json, under the names of `Transformer`'s arguments."""

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "nhead",
        "intermediate_size": "dim_feedforward",
    }

    def __init__(
        self,
        vocab_size: int = 5000,
        d_model: int = 512,
        nhead: int = 8,
        num_layers: int = 3,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        norm_first: bool = False,
        share_embeddings: bool = True,
        max_position_embeddings: int = 512,
        layer_norm_eps: float = 1e-5,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.nhead = nhead
        self.num_layers = num_layers
        self.dim_feedforward = dim_feedforward
        self.dropout = dropout
        self.norm_first = norm_first
        self.share_embeddings = share_embeddings
        self.max_position_embeddings = max_position_embeddings
        self.layer_norm_eps = layer_norm_eps
        tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "unk_token_id": 3}
        fixed = {"is_encoder_decoder": True, "tie_word_embeddings": share_embeddings}
        super().__init__(**{**tokens, "decoder_start_token_id": 0, **others, **fixed})


class TransformerForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc] # as above
    """A `Transformer` with transformers' `forward` and `generate`."""

    config_class = TransformerConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "transformer.target_embedding.weight": "transformer.source_embedding.weight",
        "transformer.generator.weight": "transformer.source_embedding.weight",
    }

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.transformer = Transformer(
            config.vocab_size,
            config.d_model,
            config.nhead,
            config.num_layers,
            config.dim_feedforward,
            config.dropout,
            norm_first=config.norm_first,
            share_embeddings=config.share_embeddings,
            max_position_embeddings=config.max_position_embeddings,
            layer_norm_eps=config.layer_norm_eps,
            pad_token_id=config.pad_token_id,
        )
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Return logits [B, T, V] and what transformers' encoder-decoders return beside them.

        Args:
            input_ids: source tokens [B, S]; not needed with `encoder_outputs`.
            attention_mask: [B, S], 1 where the source has a token; everywhere where None.
            decoder_input_ids: [B, T]; the labels moved by one place where None.
            decoder_attention_mask: [B, P + T], 1 where the decoder's input has a token. Needed only for rows that are
                padded on the left.
            encoder_outputs: the encoder's output, if there is one already.
            past_key_values: what earlier steps left; gets this one's.
            labels: [B, T] tokens that follow each place, -100 where none counts; gives `loss`, their mean.
            use_cache: whether to make a cache where none is given. As training has no use for it, none is made unasked.
            output_attentions: whether to return all attention weights, [B, H, S, T] for each layer.
            return_dict: whether the output has names; it has where None.
        """
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(input_ids, attention_mask, output_attentions=output_attentions)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        own: list[torch.Tensor] = []
        across: list[torch.Tensor] = []
        hidden = self.transformer.decode(
            self._decoder_input(decoder_input_ids, labels),
            encoder_outputs[0],
            attention_mask,
            tgt_mask=decoder_attention_mask,
            past=None if past_key_values is None else _Past(past_key_values),
            past_length=0 if past_key_values is None else int(past_key_values.get_seq_length()),
            seen=own if output_attentions else None,
            seen_across=across if output_attentions else None,
        )
        logits = self.transformer.generator(hidden)
        output = Seq2SeqLMOutput(
            loss=None if labels is None else functional.cross_entropy(logits.flatten(0, 1), labels.flatten()),
            logits=logits,
            past_key_values=past_key_values,
            decoder_attentions=tuple(own) or None,
            cross_attentions=tuple(across) or None,
            encoder_last_hidden_state=encoder_outputs[0],
            encoder_attentions=getattr(encoder_outputs, "attentions", None),
        )
        named = self.config.return_dict if return_dict is None else return_dict
        return output if named else output.to_tuple()

    def _decoder_input(self, ids: torch.Tensor | None, labels: torch.Tensor | None) -> torch.Tensor:
        if ids is not None:
            return ids
        if labels is None:
            raise ValueError("an encoder-decoder needs decoder_input_ids or labels")
        return self.prepare_decoder_input_ids_from_labels(labels)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the labels moved by one place [B, T], after the token that an answer starts with."""
        moved = labels.new_full(labels.shape, self.config.decoder_start_token_id)
        moved[:, 1:] = labels[:, :-1]
        return moved.masked_fill_(moved == -100, self.config.pad_token_id)

    def get_encoder(self, modality: str | None = None) -> nn.Module:  # noqa: ARG002 - transformers' signature
        """Return the encoder with its embedding, called as transformers' encoders are."""
        return _Encoder(self.transformer)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the source's table."""
        return self.transformer.source_embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Take another table for the source; for all where they are shared, once weights are tied."""
        self.transformer.source_embedding = value

    def get_output_embeddings(self) -> nn.Linear:
        """Return the product that gives logits."""
        return self.transformer.generator

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Take another product that gives logits."""
        self.transformer.generator = value

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Return the source's table with another number of rows; target and output get as many."""
        table: nn.Embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        target = self.transformer.target_embedding
        if not self.config.share_embeddings and target.num_embeddings != table.num_embeddings:
            self.transformer.target_embedding = self._get_resized_embeddings(
                target, table.num_embeddings, mean_resizing=mean_resizing
            )
        return table

    def _init_weights(self, module: nn.Module) -> None:
        initialize(module)


class _Encoder(nn.Module):
    """The encoder as `generate` calls it: `transformer.encoder` itself has no embedding."""

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,  # noqa: ARG002 - always with names
        **_: Any,
    ) -> BaseModelOutput:
        seen: list[torch.Tensor] | None = [] if output_attentions else None
        memory = self.transformer.encode(input_ids, attention_mask, seen=seen)
        return BaseModelOutput(last_hidden_state=memory, attentions=None if seen is None else tuple(seen))


class _Past:
    """transformers' cache, as the layers ask it."""

    def __init__(self, cache: EncoderDecoderCache) -> None:
        self._cache = cache

    def own(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both: tuple[torch.Tensor, torch.Tensor] = self._cache.self_attention_cache.update(key, value, layer)
        return both

    def cross(
        self, layer: int, make: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cache = self._cache.cross_attention_cache
        if not self._cache.is_updated.get(layer):
            cache.update(*make(), layer)
            self._cache.is_updated[layer] = True
        return cache.layers[layer].keys, cache.layers[layer].values


AutoConfig.register(MODEL_TYPE, TransformerConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(TransformerConfig, TransformerForConditionalGeneration, exist_ok=True)
