"""Attention as functions, and the module with weights of its own that is built on them."""

import math
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from deploykit.errors import ConfigError

BLOCKED: Final = -1e9
"""What is added to a score that mustn't count. Finite, so that a row in which nothing counts gives no NaN."""


def scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return softmax(Q·Kᵀ / √d_k + bias)·V and the weights: the formula as it stands (arXiv 1706.03762, equation 1).

    Args:
        query: [..., S, D].
        key: [..., T, D].
        value: [..., T, E].
        bias: added to the scores, broadcast to [..., S, T]; see `bias_of`.

    Returns:
        The output [..., S, E] and the weights [..., S, T], each row of which sums to 1.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = torch.softmax(scores if bias is None else scores + bias, dim=-1)
    return weights @ value, weights


def bias_of(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what to add to scores so that only places that are `allowed` (bool) count: 0 there, and else `BLOCKED`."""
    lowest = max(BLOCKED, torch.finfo(dtype).min)  # float16 ends at -65504
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, lowest)


def not_ahead(new: int, total: int, device: torch.device) -> torch.Tensor:
    """Return which of `total` places each of the last `new` may look at: none that comes after it. Bool [S, T]."""
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)


class MultiHeadAttention(nn.Module):
    """Attention in `nhead` heads of d_model / nhead dimensions each, between four products (section 3.2.2)."""

    def __init__(self, d_model: int, nhead: int) -> None:
        super().__init__()
        if nhead < 1 or d_model % nhead:
            raise ConfigError(f"d_model must be a multiple of nhead, got {d_model} and {nhead}")
        self.nhead = nhead
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def keys_and_values(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `source` [B, T, W] is looked up by and what it gives, [B, H, T, D] each."""
        return self._heads(self.k_proj(source)), self._heads(self.v_proj(source))

    def forward(
        self,
        x: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        bias: torch.Tensor | None = None,
        causal: bool = False,
        seen: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return what each place of `x` [B, S, W] takes from the values, [B, S, W].

        Args:
            x: where the queries come from.
            key: [B, H, T, D], of `keys_and_values`.
            value: [B, H, T, D].
            bias: added to the scores, broadcast to [B, H, S, T].
            causal: no place looks at one that comes after it; S = T, and no bias.
            seen: gets the weights [B, H, S, T] as its last item, by the plain formula.
        """
        query = self._heads(self.q_proj(x))
        if seen is None:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal)
        else:
            if causal:
                bias = bias_of(not_ahead(x.shape[1], x.shape[1], x.device), query.dtype)
            mixed, weights = scaled_dot_product_attention(query, key, value, bias)
            seen.append(weights)
        out: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], self.nhead, -1).transpose(1, 2)
