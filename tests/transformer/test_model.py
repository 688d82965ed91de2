"""Layers and the whole model: equal to torch.nn.Transformer, masked as they say, and able to learn."""

import math

import pytest
import torch
from torch import nn
from torch_twins import (
    SIZES,
    VOCABULARY,
    decoder_layer_twin,
    encoder_layer_twin,
    scattered,
    small_transformer,
    transformer_twin,
)

from deploykit.errors import ConfigError
from deploykit.transformer.attention import bias_of
from deploykit.transformer.layers import DecoderLayer, Dropout, EncoderLayer
from deploykit.transformer.model import Transformer, sinusoidal_positions

PRE_AND_POST = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])


@PRE_AND_POST
def test_encoder_layer_equals_pytorchs(norm_first: bool) -> None:
    ours = scattered(EncoderLayer(24, 4, 40, 0.0, norm_first, 1e-5)).eval()
    x = torch.randn(3, 7, 24)
    out = ours(x, bias_of(MASK.bool()[:, None, None, :], x.dtype))
    expected = encoder_layer_twin(ours)(x, src_key_padding_mask=MASK == 0)
    torch.testing.assert_close(out[MASK == 1], expected[MASK == 1], atol=1e-5, rtol=1e-5)


@PRE_AND_POST
def test_decoder_layer_equals_pytorchs(norm_first: bool) -> None:
    ours = scattered(DecoderLayer(24, 4, 40, 0.0, norm_first, 1e-5)).eval()
    x, memory = torch.randn(3, 5, 24), torch.randn(3, 7, 24)
    out = ours(x, memory, memory_bias=bias_of(MASK.bool()[:, None, None, :], x.dtype))
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    expected = decoder_layer_twin(ours)(x, memory, tgt_mask=causal, memory_key_padding_mask=MASK == 0)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@PRE_AND_POST
@pytest.mark.parametrize("share_embeddings", [True, False])
def test_the_whole_equals_pytorchs(norm_first: bool, share_embeddings: bool) -> None:
    ours = small_transformer(norm_first=norm_first, share_embeddings=share_embeddings)
    src, tgt = _tokens(3, 7), _tokens(3, 5)
    twin, places = transformer_twin(ours), sinusoidal_positions(7, 24)
    hidden = twin(
        ours.source_embedding.weight[src] * math.sqrt(24) + places,
        ours.target_embedding.weight[tgt] * math.sqrt(24) + places[:5],
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(5),
        src_key_padding_mask=MASK == 0,
        memory_key_padding_mask=MASK == 0,
    )
    expected = hidden @ ours.generator.weight.T
    torch.testing.assert_close(ours(src, tgt, MASK), expected, atol=1e-4, rtol=1e-4)


def test_gradients_equal_pytorchs() -> None:
    ours = small_transformer().train()
    twin, places = transformer_twin(ours).train(), sinusoidal_positions(7, 24)
    src, tgt = _tokens(2, 7), _tokens(2, 5)
    ours(src, tgt).square().mean().backward()
    embedded = ours.source_embedding.weight.detach() * math.sqrt(24)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    hidden = twin(embedded[src] + places, embedded[tgt] + places[:5], tgt_mask=causal, tgt_is_causal=True)
    (hidden @ ours.generator.weight.detach().T).square().mean().backward()
    for index, layer in enumerate(ours.decoder.layers):
        for name in ("linear1.weight", "linear2.bias", "norm2.weight"):
            expected = twin.decoder.layers[index].get_parameter(name).grad
            torch.testing.assert_close(layer.get_parameter(name).grad, expected, atol=1e-5, rtol=1e-4)


@PRE_AND_POST
def test_gradients_are_the_derivatives(norm_first: bool) -> None:
    layer = DecoderLayer(4, 2, 6, 0.0, norm_first, 1e-5).double()
    inputs = [torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = list(layer.parameters())

    def run(x: torch.Tensor, memory: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = layer(x, memory)
        return out

    assert torch.autograd.gradcheck(run, [*inputs, *weights])


@pytest.mark.parametrize("place", range(5))
def test_no_token_sees_one_that_follows(place: int) -> None:
    model, src, tgt = small_transformer(), _tokens(2, 7), _tokens(2, 5)
    changed = tgt.clone()
    changed[:, place] = (tgt[:, place] + 1) % VOCABULARY
    before, after = model(src, tgt), model(src, changed)
    # Kernels for other lengths aren't involved, so that what is the same is so to the bit.
    assert torch.equal(before[:, :place], after[:, :place])
    assert (before[:, place:] != after[:, place:]).any(-1).all()


def test_padding_of_the_source_is_not_seen() -> None:
    model, src, tgt = small_transformer(), _tokens(3, 7), _tokens(3, 5)
    changed = torch.where(MASK == 1, src, (src + 7) % VOCABULARY)
    assert torch.equal(model(src, tgt, MASK), model(changed, tgt, MASK))
    whole = model(src, tgt, torch.ones_like(MASK))
    differs = (whole != model(src, tgt, MASK)).flatten(1).any(1)
    assert differs.tolist() == [False, True, True]


def test_padded_rows_equal_rows_alone() -> None:
    model, src, tgt = small_transformer(), _tokens(3, 7), _tokens(3, 5)
    together = model(src, tgt, MASK)
    for row, length in enumerate(MASK.sum(1)):
        alone = model(src[row : row + 1, :length], tgt[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_takes_padding_from_the_tokens_where_it_gets_no_mask() -> None:
    model, src, tgt = small_transformer(), _tokens(3, 7), _tokens(3, 5)
    padded = src.masked_fill(MASK == 0, model.pad_token_id)
    assert torch.equal(model(padded, tgt), model(padded, tgt, MASK))


def test_decoder_rows_padded_on_the_left_equal_rows_without() -> None:
    model, src, tgt = small_transformer(), _tokens(2, 7), _tokens(2, 5)
    memory = model.encode(src)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    both = model.decode(tgt, memory, tgt_mask=mask)
    alone = model.decode(tgt[:1, 2:], memory[:1])
    torch.testing.assert_close(both[:1, 2:], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[1:], model.decode(tgt[1:], memory[1:]), atol=1e-5, rtol=1e-5)
    assert both.isfinite().all()


def test_positions_are_the_papers() -> None:
    table = sinusoidal_positions(512, 6)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    for place, dimension in ((1, 0), (7, 2), (511, 4)):
        angle = place / 10_000 ** (dimension / 6)
        assert table[place, dimension].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[place, dimension + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert sinusoidal_positions(4, 3).shape == (4, 3)


def test_overfits_one_batch() -> None:
    model = Transformer(20, 32, 4, 2, 64, dropout=0.0).train()
    src, tgt = torch.randint(4, 20, (8, 6)), torch.randint(4, 20, (8, 6))
    inputs = torch.cat([torch.zeros(8, 1, dtype=torch.long), tgt[:, :-1]], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        loss = nn.functional.cross_entropy(model(src, inputs).flatten(0, 1), tgt.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch's own gap
        optimizer.step()
    assert loss.item() < 0.01
    assert torch.equal(model(src, inputs).argmax(-1), tgt)


def test_shared_embeddings_are_one_tensor() -> None:
    shared, separate = small_transformer(), small_transformer(share_embeddings=False)
    assert shared.generator.weight is shared.source_embedding.weight is shared.target_embedding.weight
    tables = {id(one.weight) for one in (separate.generator, separate.source_embedding, separate.target_embedding)}
    assert len(tables) == 3


def test_defaults_are_the_articles() -> None:
    with torch.device("meta"):
        model = Transformer(5000)
    layer = model.decoder.layers[2]
    assert isinstance(layer, DecoderLayer)
    assert (model.d_model, layer.self_attn.nhead, len(model.encoder.layers), layer.linear1.out_features) == (
        512,
        8,
        3,
        2048,
    )
    assert not layer.norm_first


def test_drops_in_training_alone() -> None:
    model, src, tgt = small_transformer(dropout=0.5), _tokens(2, 7), _tokens(2, 5)
    assert torch.equal(model(src, tgt), model(src, tgt))
    model.train()
    assert not torch.equal(model(src, tgt), model(src, tgt))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_dropout_drops_its_part_and_keeps_the_mean(part: float) -> None:
    x = torch.full((333, 301), 2.0, requires_grad=True)
    out = Dropout(part)(x)
    kept = out != 0
    # Four standard deviations of the mean of 100,233 draws.
    assert kept.float().mean().item() == pytest.approx(1 - part, abs=4 * (part * (1 - part) / x.numel()) ** 0.5)
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 2 / (1 - part)), rtol=2e-4, atol=0)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, kept)
    # Neighbours that share a draw's 64 bits don't share their fate.
    flat = kept.flatten()[: 333 * 300].view(-1, 4).float()
    assert torch.corrcoef(flat.T).fill_diagonal_(0).abs().max() < 0.03


def test_dropout_is_the_seeds() -> None:
    x, drop = torch.ones(5, 7), Dropout(0.5)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(drop(x))
    assert torch.equal(*draws)
    assert not torch.equal(drop(x), drop(x))


def test_a_sequence_longer_than_its_positions_is_an_error() -> None:
    model = Transformer(VOCABULARY, num_layers=1, max_position_embeddings=6, **SIZES)  # type: ignore[arg-type]
    assert model(_tokens(1, 6), _tokens(1, 6)).shape == (1, 6, VOCABULARY)
    for lengths in ((7, 2), (2, 7)):
        with pytest.raises(ConfigError, match=r"7 tokens is longer than the 6"):
            model(_tokens(1, lengths[0]), _tokens(1, lengths[1]))


def _tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, (rows, length))
