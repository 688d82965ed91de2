"""Attention against the formula, the article's worked example, and PyTorch's own module."""

import pytest
import torch
from torch_twins import attention_twin

from deploykit.errors import ConfigError
from deploykit.transformer.attention import (
    BLOCKED,
    MultiHeadAttention,
    bias_of,
    not_ahead,
    scaled_dot_product_attention,
)

EXAMPLE = torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]])


def test_gives_the_worked_examples_right_values() -> None:
    # By hand: Q·Kᵀ has 2 on its diagonal, 1 beside it, 2 towards the last row, and 3 in the corner. With r = e^(-1/√3)
    # the first row's weights are (1, r, r, 1) / (2 + 2r) and the last row's (r, r, r, 1) / (1 + 3r); r = 0.5613839,
    # worked out in decimal arithmetic of 40 digits.
    near, far = 0.3202287378, 0.1797712622
    corner, aside = 0.3725571787, 0.2091476071
    output, weights = scaled_dot_product_attention(EXAMPLE, EXAMPLE, EXAMPLE)
    expected = [[near, far, far, near], [far, near, far, near], [far, far, near, near], [aside, aside, aside, corner]]
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-6, rtol=0)
    most, least, last = 0.8202287378, 0.6797712622, 0.7908523929
    mixed = [[most, least, most], [most, most, least], [least, most, most], [last, last, last]]
    torch.testing.assert_close(output, torch.tensor(mixed), atol=1e-6, rtol=0)


def test_module_with_identity_weights_gives_the_worked_example() -> None:
    one = MultiHeadAttention(3, 1)
    for product in (one.q_proj, one.k_proj, one.v_proj, one.out_proj):
        torch.nn.init.eye_(product.weight)
        torch.nn.init.zeros_(product.bias)
    out = one(EXAMPLE[None], *one.keys_and_values(EXAMPLE[None]))
    torch.testing.assert_close(out[0], scaled_dot_product_attention(EXAMPLE, EXAMPLE, EXAMPLE)[0])


def test_each_row_of_weights_sums_to_one() -> None:
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    _, weights = scaled_dot_product_attention(query, key, torch.randn(2, 3, 7, 4))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))


def test_gradients_of_the_formula_are_its_derivatives() -> None:
    inputs = [torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = bias_of(not_ahead(3, 3, torch.device("cpu")), torch.float64)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return scaled_dot_product_attention(query, key, value, bias)

    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_equals_pytorchs_module(heads: int) -> None:
    ours = MultiHeadAttention(16, heads)
    torch.nn.init.normal_(ours.v_proj.bias)
    twin = attention_twin(ours)
    x, source = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0] + [1] * 6]).bool()
    seen: list[torch.Tensor] = []
    bias = bias_of(mask[:, None, None, :], x.dtype)
    plain = ours(x, *ours.keys_and_values(source), bias=bias, seen=seen)
    fused = ours(x, *ours.keys_and_values(source), bias=bias)
    expected, weights = twin(x, source, source, key_padding_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(plain, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fused, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen[0], weights, atol=1e-6, rtol=1e-5)


def test_causal_is_the_same_with_and_without_weights() -> None:
    ours, x = MultiHeadAttention(8, 2), torch.randn(2, 6, 8)
    key, value = ours.keys_and_values(x)
    seen: list[torch.Tensor] = []
    torch.testing.assert_close(ours(x, key, value, causal=True), ours(x, key, value, causal=True, seen=seen))
    assert torch.equal(seen[0].triu(1), torch.zeros_like(seen[0]))


def test_a_row_that_may_look_nowhere_is_finite() -> None:
    nowhere = bias_of(torch.zeros(3, 4, dtype=torch.bool), torch.float32)
    output, _ = scaled_dot_product_attention(torch.randn(3, 4), torch.randn(4, 4), torch.randn(4, 4), nowhere)
    assert output.isfinite().all()


@pytest.mark.parametrize(("dtype", "lowest"), [(torch.float32, BLOCKED), (torch.float16, -65504.0)])
def test_bias_blocks_with_a_number_its_type_can_hold(dtype: torch.dtype, lowest: float) -> None:
    assert bias_of(torch.tensor([True, False]), dtype).tolist() == [0.0, lowest]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="multiple of nhead, got 10 and 3"):
        MultiHeadAttention(10, 3)
