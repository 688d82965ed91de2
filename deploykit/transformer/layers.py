"""The layers of the encoder and of the decoder, and the stacks of them (section 3.1), after or before normalization."""

from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch import nn
from torch.nn import functional

from deploykit.transformer.attention import MultiHeadAttention

_STEPS: Final = 2**16


class Past(Protocol):
    """Keys and values that earlier steps left, [B, H, P, D] each."""

    def own(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the new places of a decoder layer; return all of them."""

    def cross(
        self, layer: int, make: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoder's, made when they are asked for first."""


class Dropout(nn.Dropout):
    """Dropout that draws 16 random bits for each number, not a float: with it a CPU's step is 3 to 9 % shorter.

    `p` is thereby a multiple of 1/65536.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """Return [...] with `p` of the numbers 0 and the others larger, so that the mean stays."""
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        dropped, count = round(self.p * _STEPS), input.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[:count].view(input.shape)
        kept = (draws >= dropped - _STEPS // 2).to(input.dtype)
        return input * kept.mul_(_STEPS / max(_STEPS - dropped, 1))


class Layer(nn.Module):
    """What both layers share: the feed-forward block, and how a block's output joins what goes past it."""

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        # On a block's output alone, as in the paper (section 5.4); torch.nn.Transformer also drops attention weights.
        self.dropout = Dropout(dropout)

    def block(self, x: torch.Tensor, norm: nn.Module, apply: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return norm(x + apply(x)), or x + apply(norm(x)) with `norm_first`."""
        if self.norm_first:
            joined: torch.Tensor = x + self.dropout(apply(norm(x)))
        else:
            joined = norm(x + self.dropout(apply(x)))
        return joined

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return W₂·ReLU(W₁·x + b₁) + b₂ for each place (section 3.3)."""
        out: torch.Tensor = self.linear2(functional.relu(self.linear1(x)))
        return out


class EncoderLayer(Layer):
    """Self-attention, then the feed-forward block."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, norm_first: bool, eps: float
    ) -> None:
        super().__init__(d_model, dim_feedforward, dropout, norm_first)
        self.self_attn = MultiHeadAttention(d_model, nhead)
        self.norm1 = nn.LayerNorm(d_model, eps)
        self.norm2 = nn.LayerNorm(d_model, eps)

    def forward(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, *, seen: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return [B, S, W] for `x` [B, S, W]; `bias` and `seen` as in `MultiHeadAttention`."""

        def attend(x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.self_attn(x, *self.self_attn.keys_and_values(x), bias=bias, seen=seen)
            return out

        return self.block(self.block(x, self.norm1, attend), self.norm2, self.feed_forward)


class DecoderLayer(Layer):
    """Self-attention, attention to what the encoder made, then the feed-forward block."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, norm_first: bool, eps: float
    ) -> None:
        super().__init__(d_model, dim_feedforward, dropout, norm_first)
        self.self_attn = MultiHeadAttention(d_model, nhead)
        self.cross_attn = MultiHeadAttention(d_model, nhead)
        self.norm1 = nn.LayerNorm(d_model, eps)
        self.norm2 = nn.LayerNorm(d_model, eps)
        self.norm3 = nn.LayerNorm(d_model, eps)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        *,
        bias: torch.Tensor | None = None,
        causal: bool = True,
        memory_bias: torch.Tensor | None = None,
        past: Past | None = None,
        index: int = 0,
        seen: list[torch.Tensor] | None = None,
        seen_across: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return [B, S, W] for `x` [B, S, W] and the encoder's `memory` [B, T, W].

        Args:
            x: what comes in.
            memory: the encoder's output; not looked at where `past` has its keys and values.
            bias: added to the scores of self-attention, in place of `causal`.
            causal: no place of `x` looks at one after it.
            memory_bias: added to the scores of attention to `memory`.
            past: keys and values of earlier steps; gets this one's.
            index: this layer's number, in `past`.
            seen: gets the weights of self-attention.
            seen_across: gets the weights of attention to `memory`.
        """

        def attend(x: torch.Tensor) -> torch.Tensor:
            key, value = self.self_attn.keys_and_values(x)
            if past is not None:
                key, value = past.own(index, key, value)
            out: torch.Tensor = self.self_attn(x, key, value, bias=bias, causal=causal, seen=seen)
            return out

        def look_across(x: torch.Tensor) -> torch.Tensor:
            def make() -> tuple[torch.Tensor, torch.Tensor]:
                return self.cross_attn.keys_and_values(memory)

            key, value = make() if past is None else past.cross(index, make)
            out: torch.Tensor = self.cross_attn(x, key, value, bias=memory_bias, seen=seen_across)
            return out

        x = self.block(x, self.norm1, attend)
        x = self.block(x, self.norm2, look_across)
        return self.block(x, self.norm3, self.feed_forward)


class Stack(nn.Module):
    """Layers one after the other, and a norm at the end, as in torch.nn.Transformer."""

    def __init__(self, layers: list[nn.Module], d_model: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model, eps)
