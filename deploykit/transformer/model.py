"""The model: embeddings and positions in, encoder, decoder, and a logit for each entry of the vocabulary out."""

import math

import torch
from torch import nn

from deploykit.errors import ConfigError
from deploykit.transformer.attention import MultiHeadAttention, bias_of, not_ahead
from deploykit.transformer.layers import DecoderLayer, Dropout, EncoderLayer, Past, Stack


def sinusoidal_positions(length: int, d_model: int) -> torch.Tensor:
    """Return PE [length, d_model] in float32: sines on even dimensions, cosines on odd ones (section 3.5).

    PE[p, 2i] = sin(p / 10000^(2i / d_model)) and PE[p, 2i + 1] = cos of the same angle, p from 0.
    """
    # Angles in double precision: in single, those of far places are off by 1e-5 and differ by the machine.
    rates = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64, device="cpu") * (-math.log(10_000) / d_model))
    angles = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] * rates
    table = torch.empty(length, d_model, dtype=torch.float64, device="cpu")
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles[:, : d_model // 2].cos()
    return table.float()


def initialize(module: nn.Module) -> None:
    """Give one module its first weights, from torch's global generator; other kinds are left as they are."""
    if isinstance(module, MultiHeadAttention):
        # As if the three were one product, which is how torch.nn.MultiheadAttention draws them.
        for one in (module.q_proj, module.k_proj, module.v_proj):
            nn.init.xavier_uniform_(one.weight, gain=2**-0.5)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        # Times √d_model it is as large as the positions added to it; as the output's weights it gives logits near 1.
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


class Transformer(nn.Module):
    """The encoder-decoder Transformer of the article, in its defaults; post-norm, as it was published."""

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 512,
        nhead: int = 8,
        num_layers: int = 3,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        *,
        norm_first: bool = False,
        share_embeddings: bool = True,
        max_position_embeddings: int = 512,
        layer_norm_eps: float = 1e-5,
        pad_token_id: int = 2,
    ) -> None:
        """Make the model with fresh weights from torch's global generator.

        Args:
            vocab_size: V, of source and target.
            d_model: W.
            nhead: H; divides W.
            num_layers: layers of the encoder, and of the decoder.
            dim_feedforward: width of the feed-forward blocks.
            dropout: part of each block's output, and of the embeddings, that is dropped in training.
            norm_first: normalize before each block, not after it.
            share_embeddings: one table for source, target and output.
            max_position_embeddings: longest source, and longest target.
            layer_norm_eps: added to variances.
            pad_token_id: what rows are filled up with; `forward` takes it as padding where it gets no mask.

        Raises:
            ConfigError: `nhead` doesn't divide `d_model`.
        """
        super().__init__()
        self.d_model = d_model
        self.max_position_embeddings = max_position_embeddings
        self.pad_token_id = pad_token_id
        self.source_embedding = nn.Embedding(vocab_size, d_model)
        self.target_embedding = nn.Embedding(vocab_size, d_model)
        self.generator = nn.Linear(d_model, vocab_size, bias=False)
        if share_embeddings:
            self.target_embedding.weight = self.generator.weight = self.source_embedding.weight
        sizes = (d_model, nhead, dim_feedforward, dropout, norm_first, layer_norm_eps)
        self.encoder = Stack([EncoderLayer(*sizes) for _ in range(num_layers)], d_model, layer_norm_eps)
        self.decoder = Stack([DecoderLayer(*sizes) for _ in range(num_layers)], d_model, layer_norm_eps)
        self.dropout = Dropout(dropout)
        self._positions: torch.Tensor | None = None
        self.apply(initialize)

    def forward(self, src: torch.Tensor, tgt: torch.Tensor, src_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits [B, T, V] of the token after each place of `tgt`.

        Args:
            src: source tokens [B, S].
            tgt: the decoder's input [B, T]: `<bos>`, then the target. Padding must follow it.
            src_mask: [B, S], 1 where there is a token; where None, every token but `pad_token_id` is one.
        """
        if src_mask is None and bool((src == self.pad_token_id).any()):
            src_mask = src != self.pad_token_id
        logits: torch.Tensor = self.generator(self.decode(tgt, self.encode(src, src_mask), src_mask))
        return logits

    def encode(
        self, src: torch.Tensor, src_mask: torch.Tensor | None = None, *, seen: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return what the encoder makes of `src` [B, S]: [B, S, W]; without a mask every place counts.

        `seen` gets each layer's attention weights [B, H, S, S].
        """
        x = self._embed(self.source_embedding, src, 0)
        bias = None if src_mask is None else bias_of(src_mask.bool()[:, None, None, :], x.dtype)
        for layer in self.encoder.layers:
            x = layer(x, bias, seen=seen)
        memory: torch.Tensor = self.encoder.norm(x)
        return memory

    def decode(
        self,
        tgt: torch.Tensor,
        memory: torch.Tensor,
        src_mask: torch.Tensor | None = None,
        *,
        tgt_mask: torch.Tensor | None = None,
        past: Past | None = None,
        past_length: int = 0,
        seen: list[torch.Tensor] | None = None,
        seen_across: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the decoder's output [B, S, W] for `tgt` [B, S], before the logits.

        Args:
            tgt: the new tokens of the decoder's input.
            memory: the encoder's output [B, S', W].
            src_mask: [B, S'], 1 where `memory` counts; all of it where None.
            tgt_mask: [B, P + S], 1 where the past or `tgt` has a token. Positions count these, so that rows may be
                padded on the left.
            past: keys and values of earlier steps; gets this one's.
            past_length: P, tokens in it.
            seen: gets each layer's weights of self-attention [B, H, S, P + S].
            seen_across: gets each layer's weights of attention to `memory` [B, H, S, S'].
        """
        new, total = tgt.shape[1], past_length + tgt.shape[1]
        if tgt_mask is None:
            x = self._embed(self.target_embedding, tgt, past_length)
        else:
            x = self._embed(self.target_embedding, tgt, (tgt_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -new:])
        memory_bias = None if src_mask is None else bias_of(src_mask.bool()[:, None, None, :], x.dtype)
        bias = self._own_bias(x, total, tgt_mask)
        for index, layer in enumerate(self.decoder.layers):
            x = layer(
                x,
                memory,
                bias=bias,
                causal=bias is None and new > 1,
                memory_bias=memory_bias,
                past=past,
                index=index,
                seen=seen,
                seen_across=seen_across,
            )
        out: torch.Tensor = self.decoder.norm(x)
        return out

    @staticmethod
    def _own_bias(x: torch.Tensor, total: int, tgt_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Return the bias [B or 1, 1, S, T] of the decoder's self-attention; None where `causal` alone says it."""
        new = x.shape[1]
        if tgt_mask is None:
            # One new token may look at everything; without a past the kernel knows the causal mask itself.
            return None if new in (1, total) else bias_of(not_ahead(new, total, x.device), x.dtype)[None, None]
        allowed = tgt_mask.bool()[:, None, None, :] & not_ahead(new, total, x.device)
        return bias_of(allowed, x.dtype)

    def _embed(self, table: nn.Embedding, ids: torch.Tensor, positions: int | torch.Tensor) -> torch.Tensor:
        """Return embedding · √W + position for each token; `positions` are the first one's, or each one's [B, S]."""
        x = table(ids) * math.sqrt(self.d_model)
        first = positions if isinstance(positions, int) else 0
        end = first + ids.shape[1] if isinstance(positions, int) else int(positions.max()) + 1
        if end > self.max_position_embeddings:
            raise ConfigError(
                f"a sequence of {end} tokens is longer than the {self.max_position_embeddings} this model is made for "
                "(max_position_embeddings); shorten it"
            )
        known = self._known_positions(x)
        embedded: torch.Tensor = self.dropout(
            x + (known[first:end] if isinstance(positions, int) else known[positions])
        )
        return embedded

    def _known_positions(self, x: torch.Tensor) -> torch.Tensor:
        """Return the table [max_position_embeddings, W], in the type and on the device of `x`."""
        # No buffer: it would be saved, or lost where a checkpoint is opened on the meta device.
        if self._positions is None or (self._positions.dtype, self._positions.device) != (x.dtype, x.device):
            self._positions = sinusoidal_positions(self.max_position_embeddings, self.d_model).to(x)
        return self._positions
